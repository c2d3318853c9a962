"""Figures as pictures: PNGs that are the same for the same figures.

The one rule: ours and floors differ by form as well as by colour, and each row says its number.
"""

import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.measure import Figure, Spread, written

_WIDTH: Final = 9.0
_ROW: Final = 0.36
_AROUND: Final = 0.9
_PANEL: Final = 3.4
_DPI: Final = 110
_OURS: Final = "#1d5fbf"
_FLOOR: Final = "#6b7280"
_TARGET: Final = "#c2410c"
_LINES: Final = ((_OURS, "o"), ("#b45309", "D"), ("#0f766e", "^"), ("#9d174d", "v"), ("#6d28d9", "P"))
_FILLS: Final = ("#8ab4f0", "#f2b36b", "#7fc8a9", "#e39ac0", "#b9a4ec", "#d6cf73", "#b4bac2")
_HATCHES: Final = ("", "//", "..")
_TOLD: Final = 0.045
"""A part that is a smaller share of the longest bar has no number in it."""
_FAR: Final = 20.0
"""Where the most is so many times the least, an axis is logarithmic."""
_VERY_FAR: Final = 500.0
_SHORT: Final = 40


class _Panel(NamedTuple):
    """A part of a picture; inches."""

    height: float
    draw: Callable[[Axes], None]


def ratios(figures: Sequence[Figure]) -> bytes:
    """Draw the ratio of each figure to its floor, which it must have, of single runs too, and targets."""

    def draw(axes: Axes) -> None:
        axes.axvline(1, color=_FLOOR, linestyle="--", label="floor")
        for place, figure in enumerate(figures):
            axes.hlines(place, min(figure.ratios), max(figure.ratios), color=_OURS, linewidth=2)
        middles = [figure.ratio or 0 for figure in figures]
        axes.plot(middles, range(len(figures)), "o", color=_OURS, label="ratio of p50, and of single runs")
        aims = [(figure.ratio_target, place) for place, figure in enumerate(figures) if figure.ratio_target]
        if aims:
            axes.plot(*zip(*aims, strict=True), "|", color=_TARGET, ms=15, mew=3, label="target")
        _logarithmic(axes, "x", max(1, *middles) / min(1, *middles))
        _plainly(axes, "x")
        _name_rows(axes, [f"{each.name}   {written(each.ratio or 0)}" for each in figures])
        axes.set_xlabel("times the floor of the same run")

    return _picture("Ratios to floors", [_Panel(_AROUND + _ROW * len(figures), draw)])


def series(figures: Sequence[Figure]) -> bytes:
    """Draw the figures of one series, a panel for each unit."""
    swept = all(figure.at is not None for figure in figures)
    by_unit = [[each for each in figures if each.unit == unit] for unit in Counter(e.unit for e in figures)]
    panel = _stacks if any(each.parts for each in figures) else _sweep if swept else _rows
    return _picture(figures[0].series, [panel(each) for each in by_unit])


def _stacks(figures: Sequence[Figure]) -> _Panel:
    """Draw a bar for each figure, divided into what it is made up of; a part looks the same in all."""
    every = dict.fromkeys(part for figure in figures for part in figure.parts)
    longest = max(figure.ours.p50 for figure in figures)

    def draw(axes: Axes) -> None:
        ends = [0.0] * len(figures)
        for part, (hatch, color) in zip(every, itertools.product(_HATCHES, _FILLS), strict=False):
            wide = [figure.parts.get(part, 0.0) for figure in figures]
            bars = axes.barh(
                range(len(figures)),
                wide,
                0.7,
                ends,
                color=color,
                hatch=hatch,
                edgecolor="white",
                label=part,
            )
            told = [f"{number:.2f}" if number > _TOLD * longest else "" for number in wide]
            axes.bar_label(bars, told, label_type="center", fontsize=8)
            ends = [end + more for end, more in zip(ends, wide, strict=True)]
        _name_rows(axes, [f"{each.name}   {written(each.ours.p50)}" for each in figures])
        axes.set_xlabel(figures[0].unit)

    return _Panel(_AROUND + 1.6 * _ROW * len(figures), draw)


def _rows(figures: Sequence[Figure]) -> _Panel:
    """Lay distributions below one another, each floor close below ours."""

    def draw(axes: Axes) -> None:
        for place, figure in enumerate(figures):
            _range(axes, place, figure.ours, _OURS, "o")
            if figure.floor:
                _range(axes, place + 0.3, figure.floor, _FLOOR, "s")
        _scale(axes, "x", [number for each in figures for shown in _shown(each) for number in shown])
        _name_rows(axes, [f"{each.name}   {written(each.ours.p50)}" for each in figures])
        axes.set_xlabel(f"{figures[0].unit}: p50, a bar to p95, a line to p99")
        _label(axes, figures)

    return _Panel(_AROUND + 1.3 * _ROW * len(figures), draw)


def _range(axes: Axes, place: float, shown: Spread, color: str, marker: str) -> None:
    axes.hlines(place, shown.p50, shown.p95, color=color, linewidth=5, alpha=0.45)
    axes.hlines(place, shown.p50, shown.p99, color=color, linewidth=1.2)
    axes.plot([shown.p50], [place], marker, color=color)


def _label(axes: Axes, figures: Sequence[Figure]) -> None:
    """Say what the forms are, where there are floors beside ours."""
    floors = {each.floor_what for each in figures if each.floor}
    if floors:
        axes.plot([], [], "o", color=_OURS, label="ours")
        axes.plot(
            [], [], "s", color=_FLOOR, label=f"floor: {floors.pop()}" if len(floors) == 1 else "floor"
        )


def _sweep(figures: Sequence[Figure]) -> _Panel:
    """Draw lines of p50 along the axis, with a band to p99; floors are broken lines."""

    def draw(axes: Axes) -> None:
        for (label, line), (color, marker) in zip(_lines(figures), itertools.cycle(_LINES), strict=False):
            places = [each.at or 0 for each in line]
            middles, highs = ([getattr(e.ours, part) for e in line] for part in ("p50", "p99"))
            axes.plot(places, middles, marker=marker, color=color, label=label)
            axes.fill_between(places, middles, highs, color=color, alpha=0.12, linewidth=0)
            floors = [(each.at or 0, each.floor.p50) for each in line if each.floor]
            if floors:
                what = f"floor: {line[0].floor_what}"
                axes.plot(*zip(*floors, strict=True), "s--", color=_FLOOR, ms=4, label=what)
        _scale(axes, "y", [number for each in figures for shown in _shown(each) for number in shown])
        places = sorted({each.at or 0 for each in figures})
        if places[0] > 0 and places[-1] > _FAR / 2 * places[0]:
            _logarithmic(axes, "x", places[-1] / places[0])
        axes.set_xticks(places)
        _plainly(axes, "x")
        axes.set_xlabel(figures[0].along)
        axes.set_ylabel(f"{figures[0].unit}: p50, a band to p99")

    return _Panel(_PANEL, draw)


def _lines(figures: Sequence[Figure]) -> list[tuple[str, list[Figure]]]:
    """Part figures into lines, each with what to call it."""
    ordered = sorted(figures, key=lambda each: each.at or 0)
    if max(Counter(each.at for each in figures).values()) == 1:
        return [(figures[0].what, ordered)]
    lines: dict[str, list[Figure]] = {}
    for each in ordered:
        lines.setdefault(each.name.rpartition(",")[0] or each.name, []).append(each)
    return list(lines.items())


def _shown(figure: Figure) -> Iterator[tuple[float, float]]:
    for each in (figure.ours, figure.floor):
        if each:
            yield each.p50, each.p99


def _scale(axes: Axes, which: Literal["x", "y"], numbers: Iterable[float]) -> None:
    """Begin an axis at 0, or make it logarithmic where the numbers are far apart."""
    known = sorted(numbers)
    if known[0] > 0 and known[-1] > _FAR * known[0]:
        _logarithmic(axes, which, known[-1] / known[0])
    elif known[0] >= 0:
        axes.set(**{f"{which}lim": (0, known[-1] * 1.06 or 1)})
    _plainly(axes, which)


def _logarithmic(axes: Axes, which: Literal["x", "y"], times: float) -> None:
    axes.set(**{f"{which}scale": "log"})
    axis: Axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if times < _VERY_FAR else (1,)))


def _plainly(axes: Axes, which: Literal["x", "y"]) -> None:
    """Write the numbers of an axis as people do."""
    axis: Axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.6g}"))
    axis.set_minor_locator(NullLocator())


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _picture(title: str, panels: Sequence[_Panel]) -> bytes:
    with _style():
        heights = [panel.height for panel in panels]
        canvas = Canvas(figsize=(_WIDTH, sum(heights) + 0.3), dpi=_DPI, layout="constrained")
        every = canvas.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
        every[0].set_title(title)
        for axes, panel in zip(every, panels, strict=True):
            panel.draw(axes)
        _explain(canvas, every)
        out = io.BytesIO()
        canvas.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context(
        {
            "font.size": 9,
            "text.parse_math": False,
            "axes.edgecolor": "#9aa2ab",
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "grid.color": "#e4e7ea",
            "legend.frameon": False,
        }
    )


def _explain(canvas: Canvas, every: Iterable[Axes]) -> None:
    """Say below the picture what the forms are, each once."""
    forms = {
        label: form for axes in every for form, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if forms:
        short = all(len(label) < _SHORT for label in forms)
        canvas.legend(forms.values(), forms.keys(), loc="outside lower left", ncols=3 if short else 1)
