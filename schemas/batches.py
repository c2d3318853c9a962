"""What actions on many tasks answer.

The one rule: the numbers add up to ``matched``, so that nobody has to guess what was left.
"""

from typing import Final

from msgspec import Struct

from schemas.errors import Code
from schemas.ids import TaskId

MOST_CANCELLED: Final = 10_000
MOST_REDRIVEN: Final = 1_000
SHOWN: Final = 1_000
"""Of how many tasks one answer gives the ids."""


class CancelledMany(Struct, frozen=True, kw_only=True):
    """``unchanged``: known to the read model and no more to the log. ``more``: send the same again.

    ``task_ids`` are those that were cancelled, at most 1,000.
    """

    matched: int
    cancelled: int
    already_finished: int
    unchanged: int
    more: bool
    task_ids: tuple[TaskId, ...]


class Redriven(Struct, frozen=True):
    """A new task, and the one that it stands in for."""

    task_id: TaskId
    origin: TaskId


class Refused(Struct, frozen=True):
    """A task that could not be made again, and why."""

    origin: TaskId
    code: Code
    detail: str


class RedrivenMany(Struct, frozen=True, kw_only=True):
    """``already_redriven``: by somebody else in the meantime. ``more``: send the same again.

    ``stopped``: what was full, where that is why. ``tasks`` are at most 1,000, ``refusals`` at most 100.
    """

    matched: int
    made: int
    already_redriven: int
    refused: int
    more: bool
    stopped: Code | None
    tasks: tuple[Redriven, ...]
    refusals: tuple[Refused, ...]
