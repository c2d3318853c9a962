"""One task as it is now: from the read model, or from the stream where that has not got there yet.

The one rule: nobody is shown less than this process has appended itself.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from schemas import readmodel, views
from schemas.errors import Code, RejectedError, UnavailableError
from schemas.ids import TaskId
from schemas.standing import Standing
from schemas.subjects import Lane
from schemas.task import FINAL, Status
from services.api import asking, in_line, lag
from services.api.hub import Hub
from services.api.outlook import Foresight
from services.api.queries import ReadModel, ReadModelAwayError, Row
from services.api.recent import Recent
from services.bus.tasklog import TaskLog


class Shown(NamedTuple):
    """A task's document, and what of it changes: the sequence, the progress' revision, the standing."""

    status: str
    sequence: int
    revision: int | None
    queue: Standing | None
    body: bytes

    @property
    def etag(self) -> bytes:
        if self.queue is None or self.queue.eta_at is None:
            return b'"%b"' % self._steady
        return b'"%b%b%b"' % (self._steady, asking.ETA, self.queue.eta_at.encode())

    def news(self, known: bytes) -> bool:
        """Whether more than ``eta_at`` differs from what a client has, by its If-None-Match."""
        return not asking.matches(asking.without_eta(known), b'"%b"' % self._steady)

    @property
    def _steady(self) -> bytes:
        """Name all that changes at once; ``eta_at`` does so bit by bit."""
        tag = b"%d" % self.sequence
        if self.revision is not None:
            tag += b"-%d" % self.revision
        if self.queue is not None:
            tag += b".%d%b" % (self.queue.position or 0, self.queue.why.encode())
        return tag

    @property
    def final(self) -> bool:
        return self.status in FINAL


class Reads:
    def __init__(
        self, model: ReadModel, tasklog: TaskLog, hub: Hub, recent: Recent, foresight: Foresight
    ) -> None:
        self._model = model
        self._foresight = foresight
        self._tasklog = tasklog
        self._hub = hub
        self._recent = recent

    async def get(self, task_id: TaskId, after: int = 0) -> Shown:
        """Give the task as it is now, the log's events up to ``after`` taken in.

        RejectedError(unknown_task), or an UnavailableError where nothing that answers knows it.
        """
        away: ReadModelAwayError | None = None
        shown, current = None, False
        try:
            current = not after or lag.applied(self._model) >= after
            shown = self._projected(task_id)
            if shown is not None and not shown.final and await self._foresight.fresh():
                shown = self._projected(task_id)
        except ReadModelAwayError as error:
            away = error
        if shown is not None and current and shown.sequence >= self._recent.sequence(task_id):
            return shown
        try:
            streamed = await self._streamed(task_id)
        except UnavailableError:
            if shown is None:
                raise
            return shown
        found = streamed or shown
        if found is None:
            raise away or unknown_task(task_id)
        return found

    async def until(self, task_id: TaskId, enough: Callable[[Shown], bool], wait_s: float) -> Shown:
        """Give the task once ``enough`` says so, or as it is when the time is over."""
        return await self._hub.waits.until(task_id, lambda: self.get(task_id), enough, wait_s)

    def _projected(self, task_id: TaskId) -> Shown | None:
        row = self._model.row(readmodel.GET_TASK, task_id)
        if row is None:
            return None
        sequence, document, revision, progress, *facts = row
        queue = self._queue(facts)
        return Shown(facts[0], sequence, revision, queue, views.spliced(document, progress, queue))

    def _queue(self, facts: Sequence[Any]) -> Standing | None:  # Any: as Row
        return None if facts[0] in FINAL else self._foresight.standing(in_line.facts(facts))

    async def listed(self, rows: Sequence[Row]) -> list[bytes]:
        """Give the documents of a list, from the rows of selections.list_tasks."""
        await self._foresight.fresh()
        return [
            views.spliced(document, progress, self._queue(facts)) for _, document, progress, *facts in rows
        ]

    async def _streamed(self, task_id: TaskId) -> Shown | None:
        found = await self._tasklog.lookup(task_id)
        task = found.task
        if task.status is Status.ABSENT or found.address is None:
            return None
        self._recent.note(task_id, task.sequence)  # what was shown once is shown from now on
        if task.status not in FINAL:
            await self._foresight.fresh()
        lane = found.address.lane
        ahead = self._ahead(lane, in_line.first_sequence(found))
        queue = self._foresight.standing(in_line.facts_of(found, lane, ahead))
        body = views.spliced(views.encoded(task, found.address), None, queue)
        return Shown(task.status, task.sequence, None, queue, body)

    def _ahead(self, lane: Lane, number: int) -> int | None:
        try:
            row = self._model.row(readmodel.AHEAD, lane.kind, lane.priority, number)
        except ReadModelAwayError:
            return None
        return row[0] if row else None


def unknown_task(task_id: TaskId) -> RejectedError:
    return RejectedError(Code.UNKNOWN_TASK, f"there is no task {task_id}", task_id=task_id)
