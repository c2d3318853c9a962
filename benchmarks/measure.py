"""Samples, what is said of them, and how a figure reads. Pure.

The one rule: a ratio compares what was measured in turns, and shows how far it differed between runs.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

Samples = list[float]

MILLISECONDS: Final = "ms"
_HEADINGS: Final = ("", "n", "p50", "p90", "p95", "p99", "max")


class Spread(Struct, frozen=True):
    """A distribution. ``runs`` are the medians of the single runs."""

    n: int
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    runs: tuple[float, ...]


class Figure(Struct, frozen=True, kw_only=True):
    """One figure with its floor. ``met`` is None where there is no target.

    ``faults`` counts what may never happen, as an event that a client was not given. ``ratio_target`` is
    the target where that is a ratio to the floor, so that it can be drawn. Figures of one ``series`` are
    drawn together: along an axis that is called ``along``, each ``at`` its place on it, or below one
    another where there is none. Where several are at one place, a line is of those whose names are the same
    up to the last comma. ``parts`` is what the p50 of ours is made up of, in the same unit.
    """

    name: str
    what: str
    floor_what: str
    unit: str
    ours: Spread
    floor: Spread | None = None
    target: str | None = None
    met: bool | None = None
    notes: tuple[str, ...] = ()
    faults: int = 0
    more_is_better: bool = False
    ratio_target: float | None = None
    series: str = ""
    along: str = ""
    at: float | None = None
    parts: dict[str, float] = {}

    @property
    def ratio(self) -> float | None:
        return self.ours.p50 / self.floor.p50 if self.floor and self.floor.p50 else None

    def judged(self) -> "Figure":
        """Give it with whether its ratio is on the right side of its target, which it has."""
        ratio, target = self.ratio or 0, self.ratio_target or 0
        return replace(self, met=ratio >= target if self.more_is_better else ratio <= target)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Give the notes, and before them what ours is made up of."""
        return (f"made up of {self.made_up}", *self.notes) if self.parts else self.notes

    @property
    def made_up(self) -> str:
        """Write the shares of the parts."""
        whole = sum(self.parts.values())
        return ", ".join(f"{part} {number / whole:.0%}" for part, number in self.parts.items())

    @property
    def ratios(self) -> list[float]:
        """Give the ratio of each run by itself."""
        floors = self.floor.runs if self.floor else ()
        return [ours / floor for ours, floor in zip(self.ours.runs, floors, strict=False) if floor]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Give the smallest sample that so large a share does not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def spread(runs: Sequence[Samples]) -> Spread:
    """Describe the samples of all runs together; there must be some."""
    ordered = sorted(sample for run in runs for sample in run)
    return Spread(
        n=len(ordered),
        p50=percentile(ordered, 0.5),
        p90=percentile(ordered, 0.9),
        p95=percentile(ordered, 0.95),
        p99=percentile(ordered, 0.99),
        max=ordered[-1],
        runs=tuple(percentile(sorted(run), 0.5) for run in runs if run),
    )


def table(figure: Figure) -> str:
    """Write a figure as a few lines."""
    title = f"{figure.name} ({figure.unit})"
    if figure.target:
        title += f": {figure.target}: {'met' if figure.met else 'MISSED'}"
    rows = [_HEADINGS, _row(figure.what, figure.ours)]
    if figure.floor:
        rows.append(_row(f"floor: {figure.floor_what}", figure.floor))
    lines = [title, *_columns(rows)]
    if figure.ratio is not None:
        between = f"{min(figure.ratios):.2f} to {max(figure.ratios):.2f}"
        lines.append(f"  ratio of p50 {figure.ratio:.2f}; of single runs {between}")
    return "\n".join([*lines, *(f"  {note}" for note in figure.remarks)])


def _row(label: str, shown: Spread) -> tuple[str, ...]:
    numbers = (shown.p50, shown.p90, shown.p95, shown.p99, shown.max)
    return (label, str(shown.n), *(written(number) for number in numbers))


def written(number: float) -> str:
    """Write a number with three digits, or all before the point."""
    return f"{number:.3g}" if abs(number) < 100 else f"{number:.0f}"


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"  {label:<62}" + "".join(f"{cell:>8}" for cell in cells) for label, *cells in rows]
