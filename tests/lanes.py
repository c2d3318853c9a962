"""Lanes with work, handed to the accounts as a test says them: all of them at once."""

from collections.abc import Iterable

from schemas.subjects import Lane
from services.scheduling.fairness import Turns
from services.scheduling.situation import Line


def admit(turns: Turns, lines: Iterable[Line], kind: str = "image") -> None:
    """Take in that these lines, and no others of their kind, have work."""
    found: dict[Lane, Line] = {line.lane: line for line in lines}
    gone = turns.lines(kind).keys() - found.keys()
    turns.admit({**dict.fromkeys(gone), **found})
