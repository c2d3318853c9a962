"""How things stood: a task and the queues, at a sequence of the log or at a time.

The one rule: the past is folded from the events that the read model shows, and from nothing else, so that
asking twice gives the same.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from schemas import envelope, queues, readmodel, views
from schemas.errors import Code, RejectedError
from schemas.ids import TaskId
from schemas.requests import Instant
from schemas.subjects import address_of
from schemas.task import fold
from services.api import asking, lag
from services.api.queries import ReadModel
from services.api.reads import unknown_task

AT_SEQUENCE: Final = "at_seq"
AT: Final = "at"
MEMBERS: Final = (AT_SEQUENCE, AT)
_NEWEST: Final = 2**63 - 1


class Moment(Struct, frozen=True):
    """Right after the event of that sequence; ``at`` is its time, null before the first event."""

    sequence: int
    at: str | None


class PastQueueView(Struct, frozen=True, kw_only=True):
    """A queue as it was; ``waiting`` are those that were QUEUED or RETRYING."""

    kind: str
    model: str
    waiting: int
    scheduled: int
    retrying: int
    running: int


class PastQueues(Struct, frozen=True):
    queues: tuple[PastQueueView, ...]
    sequence: int
    at: str | None


class _Timed(Struct, frozen=True):
    time: Instant


_decode_timed: Final = msgspec.json.Decoder(_Timed).decode


class Past:
    def __init__(self, model: ReadModel) -> None:
        self._model = model

    async def moment(self, query: Mapping[str, str]) -> Moment | None:
        """Read which moment is asked for, None for now; RejectedError for one that is not there."""
        if AT_SEQUENCE in query and AT in query:
            raise RejectedError(Code.CONFLICTING_MEMBERS, "at and at_seq exclude each other", member=AT)
        if AT_SEQUENCE in query:
            wanted = asking.whole_number(query[AT_SEQUENCE], AT_SEQUENCE, 1, _NEWEST)
            await lag.reached(self._model, wanted)
            newest = lag.applied(self._model)
            if wanted > newest:
                detail = f"at_seq is at most {newest}, the newest that is known here"
                raise RejectedError(Code.OUT_OF_RANGE, detail, member=AT_SEQUENCE)
            return self._kept(wanted, AT_SEQUENCE)
        if AT in query:
            return self._kept(self._last_until(asking.instant(query[AT], AT)), AT)
        return None

    def _kept(self, wanted: int, member: str) -> Moment:
        """Refuse what is so old that events of it have been removed."""
        pruned = (self._model.row(readmodel.PRUNED) or (0,))[0]
        if pruned and wanted <= pruned:
            raise RejectedError(
                Code.OUT_OF_RANGE,
                f"{member} lies before sequence {pruned + 1}, from which on the past is kept",
                member=member,
            )
        row = self._model.row(readmodel.LAST_EVENT, wanted)
        return Moment(wanted, envelope.timestamp(_decode_timed(row[1]).time) if row else None)

    def _last_until(self, at: datetime) -> int:
        """Find the last event that was stored by then, 0 for none: their times rise with their numbers."""
        found, end = 0, lag.applied(self._model)
        while found < end:
            middle = (found + end + 1) // 2
            row = self._model.row(readmodel.EVENT_FROM, middle)
            if row is None or _decode_timed(row[1]).time > at:
                end = middle - 1
            else:
                found = row[0]
        return found

    def task(self, task_id: TaskId, moment: Moment) -> bytes:
        """Give a task's document as it was; RejectedError(unknown_task) before there was one."""
        row = self._model.row(readmodel.GET_ADDRESS, task_id)
        if row is None:
            raise unknown_task(task_id)
        wires = self._model.rows(readmodel.WIRES_OF_TASK, task_id, moment.sequence)
        if not wires:
            detail = f"nothing is known of task {task_id} as of sequence {moment.sequence}"
            raise RejectedError(Code.UNKNOWN_TASK, detail, task_id=task_id)
        task = fold(task_id, (views.recorded(wire) for (wire,) in wires))
        return views.spliced(views.encoded(task, address_of(row[0])), None)

    async def queues(self, moment: Moment) -> PastQueues:
        """Count the queues as they were: from what was noted last before, and the events after that."""
        noted = self._model.row(readmodel.LAST_MOMENT, moment.sequence)
        start, shown = noted or (0, None)
        moves = await self._model.page(readmodel.MOVES, (start, moment.sequence))
        counted = sorted(queues.counted_on(shown, moves).items())
        there = tuple(_queue(*queue, *numbers) for queue, numbers in counted if any(numbers))
        return PastQueues(there, moment.sequence, moment.at)


def _queue(
    kind: str, model: str, scheduled: int, queued: int, retrying: int, running: int
) -> PastQueueView:
    return PastQueueView(
        kind=kind,
        model=model,
        waiting=queued + retrying,
        scheduled=scheduled,
        retrying=retrying,
        running=running,
    )
