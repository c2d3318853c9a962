"""What became of each figure since the results that were saved last. Pure.

The one rule: numbers compare on one machine only, at the pace that it had; from another one, the ratios to
floors do.
"""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from benchmarks.kept import Report, Taken
from benchmarks.machine import Machine
from benchmarks.measure import Figure

WORSE: Final = 1.2
"""So many times worse is a regression; less may be the noise of the machine."""
_HEADINGS: Final = ("", "p50", "p99", "p50 to floor", "pace")


class Change(Struct, frozen=True, kw_only=True):
    """What became of a figure: now over then, None where it does not compare.

    ``ratio`` is that of the ratios to the floor, ``pace`` that of the times of a fixed piece of work. A
    regression is judged by ``p50`` at an equal pace, and where that does not compare by ``ratio``.
    """

    name: str
    p50: float | None
    p99: float | None
    ratio: float | None
    pace: float | None
    regressed: bool


def compare(now: Report, then: Report) -> list[Change]:
    """Compare the figures that both have at the same size, in the order of the run."""
    here = _place(now.machine) == _place(then.machine)
    before = {taken.name: taken for taken in then.results}
    return [
        change
        for taken in now.results
        if (old := before.get(taken.name)) and taken.size == old.size
        for change in _changes(taken, old, here=here)
    ]


def text(now: Report, then: Report) -> str:
    """Write the comparison as a few lines."""
    title = f"compared with {then.taken_at[:10]} (commit {then.machine.commit}), now over then"
    if not (changes := compare(now, then)):
        return f"not {title}: no figure is in both at the same size"
    if _place(now.machine) != _place(then.machine):
        title += f"; that was another machine ({then.machine.machine}), so only ratios to floors compare"
    return "\n".join([title, _line(*_HEADINGS), *map(_row, changes)])


def _place(machine: Machine) -> tuple[str, int, str]:
    return machine.machine, machine.cores, machine.file_system


def _changes(now: Taken, then: Taken, *, here: bool) -> Iterator[Change]:
    before = {figure.name: figure for figure in then.figures}
    absolute = here and now.syncs == then.syncs
    pace = _over(now.pace_ms, then.pace_ms) if absolute else None
    for figure in now.figures:
        if (old := before.get(figure.name)) and old.unit == figure.unit:
            change = _change(figure, old, absolute=absolute, pace=pace)
            if change.p50 is not None or change.ratio is not None:
                yield change


def _change(now: Figure, then: Figure, *, absolute: bool, pace: float | None) -> Change:
    p50 = _over(now.ours.p50, then.ours.p50) if absolute else None
    ratio = _over(now.ratio, then.ratio)
    return Change(
        name=now.name,
        p50=p50,
        p99=_over(now.ours.p99, then.ours.p99) if absolute else None,
        ratio=ratio,
        pace=pace,
        regressed=_regressed(ratio if p50 is None else _at_equal_pace(p50, pace, now.unit), now),
    )


def _over(now: float | None, then: float | None) -> float | None:
    return None if now is None or not then else now / then


def _at_equal_pace(change: float, pace: float | None, unit: str) -> float:
    """Take out of a change what the machine has become slower or faster; of times and rates alone."""
    if pace is None:
        return change
    if unit.startswith("ms"):
        return change / pace
    return change * pace if unit.endswith("/s") else change


def _regressed(change: float | None, figure: Figure) -> bool:
    if change is None:
        return False
    return change < 1 / WORSE if figure.more_is_better else change > WORSE


def _row(change: Change) -> str:
    found = (change.p50, change.p99, change.ratio, change.pace)
    numbers = ("-" if each is None else f"{each:.2f}" for each in found)
    return _line(change.name, *numbers) + ("  REGRESSED" if change.regressed else "")


def _line(label: str, *cells: str) -> str:
    return f"  {label:<44}" + "".join(f"{cell:>14}" for cell in cells)
