"""Tasks as their standing depends on them, read from rows and from the stream.

The one rule: of a stored document and state only what is needed is decoded, since every read pays for it.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from schemas import readmodel, work
from schemas.ids import TaskId
from schemas.requests import Instant, Kind, Priority
from schemas.subjects import Lane, address_of
from schemas.task import Task
from services.api.hub import ENDLESS
from services.api.queries import ReadModel, Row
from services.bus.tasklog import Found
from services.scheduling.outlook import MOST, Lineup, Waiting


class _Begun(Struct, frozen=True):
    started_at: Instant


class _Asked(Struct, frozen=True):
    not_before: Instant | None = None


class Times(Struct, frozen=True):
    """The times of a schemas.task.Task, by its members' names."""

    retry_at: Instant | None = None
    attempts: tuple[_Begun, ...] = ()
    submission: _Asked | None = None

    @property
    def started_at(self) -> datetime | None:
        return self.attempts[-1].started_at if self.attempts else None

    @property
    def not_before(self) -> datetime | None:
        return self.submission.not_before if self.submission else None

    def due_s(self, at: datetime) -> float:
        """Give the seconds until the task may be tried again."""
        return max(0.0, (self.retry_at - at).total_seconds()) if self.retry_at else 0.0


_NONE: Final = Times()
_LANES: Final = 4096
_decode: Final = msgspec.json.Decoder(Times).decode


class Facts(NamedTuple):
    """``ahead``: how many are before it in its line, at most readmodel.MOST_COUNTED, None: not known."""

    task_id: TaskId
    status: str
    number: int
    lane: Lane
    tenant: str
    units: float
    backend: str | None
    times: Times
    ahead: int | None


def facts(row: Sequence[Any]) -> Facts:  # Any: as Row
    """Read what a query adds to a task's row for this."""
    status, number, address, tenant, units, backend, state, ahead = row
    lane, _, task_id = address.rpartition(".")
    return Facts(TaskId(task_id), status, number, _lane(lane), tenant, units, backend, _times(state), ahead)


@lru_cache(_LANES)
def _lane(prefix: str) -> Lane:
    """Read an address less its id; there are few lanes and many tasks."""
    return address_of(f"{prefix}.*").lane


def facts_of(found: Found, lane: Lane, ahead: int | None) -> Facts:
    """Say the same of a task that the read model has not got yet."""
    task = found.task
    made = task.submission
    return Facts(
        task_id=task.task_id,
        status=task.status,
        number=first_sequence(found),
        lane=lane,
        tenant=made.tenant if made else "",
        units=work.units(made) if made else 0.0,
        backend=task.attempts[-1].backend if task.attempts else None,
        times=_times_of(task),
        ahead=ahead,
    )


def first_sequence(found: Found) -> int:
    return min(recorded.sequence for recorded in found.history)


def _times(state: bytes | None) -> Times:
    return _decode(state) if state else _NONE


def _times_of(task: Task) -> Times:
    return Times(
        task.retry_at,
        tuple(_Begun(attempt.started_at) for attempt in task.attempts),
        _Asked(task.submission.not_before) if task.submission else None,
    )


class Places(NamedTuple):
    """How many are before some in a line, by their numbers: all of the first, far back a few."""

    numbers: Sequence[int]
    before: Sequence[int]


class First(NamedTuple):
    """The first in line of a kind. ``places`` by priority."""

    lineup: Lineup
    task_ids: Sequence[TaskId]
    places: Mapping[str, Places]

    def without(self, running: Container[TaskId]) -> "First":
        """Leave out who is known to run, though the read model does not know it yet."""
        every = zip(self.lineup.first, self.task_ids, strict=True)
        left = [(task, task_id) for task, task_id in every if task_id not in running]
        if len(left) == len(self.task_ids):
            return self
        counts = Counter(self.lineup.counts)
        counts.subtract(Counter(task.lane.priority for task in self.lineup.first))
        counts.update(task.lane.priority for task, _ in left)
        lineup = replace(self.lineup, first=[task for task, _ in left], counts=counts)
        return First(lineup, [task_id for _, task_id in left], self.places)


async def first(model: ReadModel, kind: Kind, at: datetime) -> First:
    """Read who is to be laid out; ReadModelAwayError where that cannot be read."""
    waiting: list[Waiting] = []
    task_ids: list[TaskId] = []
    counts: dict[str, int] = {}
    places: dict[str, Places] = {}
    for priority in Priority:
        room = MOST - len(waiting)
        rows = await model.page(readmodel.FIRST_IN_LINE, (kind, priority, room))
        places[priority], counts[priority] = Places(_numbers(rows), range(len(rows))), len(rows)
        if len(rows) == room:
            places[priority], counts[priority] = await _long(model, kind, priority, places[priority])
        for number, task_id, address, tenant, units, state in rows:
            due_s = _times(state).due_s(at) if state else 0.0
            lane = _lane(address.rpartition(".")[0])
            waiting.append(Waiting(number, lane, tenant, units, due_s))
            task_ids.append(task_id)
    lineup = Lineup(first=waiting, counts=counts)
    if len(waiting) < sum(counts.values()):
        rows = await model.page(readmodel.LANE_DEPTHS, ())
        lineup = replace(lineup, depths=dict(rows))
    return First(lineup, task_ids, places)


async def _long(model: ReadModel, kind: Kind, priority: Priority, first: Places) -> tuple[Places, int]:
    """Give the places in a line of which only the ``first`` were read, and how many are in it."""
    *before_last, last = first.numbers or (0,)
    marks = _numbers(await model.page(readmodel.MARKS, (kind, priority, last)))
    if not marks:
        return first, len(first.numbers)
    [(left,)] = await model.page(readmodel.BETWEEN, (kind, priority, marks[-1], ENDLESS))
    known, step = len(before_last), readmodel.MOST_COUNTED
    before = [*range(known), *range(known, known + step * len(marks), step)]
    return Places([*before_last, *marks], before), before[-1] + left


def _numbers(rows: Sequence[Row]) -> Sequence[int]:
    return [row[0] for row in rows]
