"""A batch as it is now: from the read model, or from its tasks in the log where that has not got there yet.

The one rule: a batch is counted whole. The ids of its tasks follow from its own, so that any api finds
them in the log, and nobody gets 404 for a batch that was accepted.
"""

from collections.abc import Callable
from functools import partial

from schemas import batches, readmodel
from schemas.batches import BatchView
from schemas.errors import Code, RejectedError, UnavailableError
from schemas.ids import BatchId, TaskId, batch_task_id
from schemas.task import Task
from services.api import lag, many
from services.api.hub import Hub
from services.api.queries import ReadModel, ReadModelAwayError
from services.bus.tasklog import Found, TaskLog


class Batches:
    def __init__(self, model: ReadModel, tasklog: TaskLog, hub: Hub) -> None:
        self._model = model
        self._tasklog = tasklog
        self._hub = hub

    async def get(self, batch_id: BatchId, seen: int = 0) -> BatchView:
        """Give the batch as it is now, with all up to the sequence ``seen``.

        RejectedError(unknown_batch), or an UnavailableError where nothing that answers knows it.
        """
        away: ReadModelAwayError | None = None
        shown: BatchView | None = None
        try:
            shown = self._projected(batch_id)
            if shown and shown.whole and lag.applied(self._model) >= seen:
                return shown
        except ReadModelAwayError as error:
            away = error
        try:
            found = await self._logged(batch_id, seen)
        except UnavailableError:
            if shown is None:
                raise
            return shown
        if found is None and shown is None:
            raise away or unknown_batch(batch_id)
        return found or shown  # type: ignore[return-value]  # one of them is there

    async def until(
        self, batch_id: BatchId, enough: Callable[[BatchView], bool], wait_s: float, seen: int
    ) -> BatchView:
        """Give the batch once ``enough`` says so, or as it is when the time is over."""
        look = partial(self.get, batch_id, seen)
        return await self._hub.waits.until(batch_id, look, enough, wait_s)

    def _projected(self, batch_id: BatchId) -> BatchView | None:
        row = self._model.row(readmodel.GET_BATCH, batch_id)
        return batches.from_row(row) if row else None

    async def _logged(self, batch_id: BatchId, seen: int) -> BatchView | None:
        """Find the batch by its first task; the read model is waited for a moment, before it is counted."""
        found = await self._tasklog.lookup(batch_task_id(batch_id, 0))
        made = found.task.submission
        if made is None or made.batch is None or made.batch.batch_id != batch_id:
            return None
        try:
            if await lag.reached(self._model, max(seen, _end(found, made.batch.size))):
                shown = self._projected(batch_id)
                if shown and shown.whole:
                    return shown
        except ReadModelAwayError:
            pass
        return await self._counted(batch_id, found.task, made.batch.size)

    async def _counted(self, batch_id: BatchId, first: Task, size: int) -> BatchView | None:
        """Look every task up; a thousand take about a second."""
        ids = [batch_task_id(batch_id, place) for place in range(size)]
        tasks = {ids[0]: first}

        async def look(task_id: TaskId) -> None:
            tasks[task_id] = (await self._tasklog.lookup(task_id)).task

        if failure := await many.each(ids[1:], look):
            raise failure
        return batches.from_tasks(batch_id, [tasks[task_id] for task_id in ids])


def _end(first: Found, size: int) -> int:
    """Give where the batch ended at the earliest: it was stored in one piece."""
    return min(recorded.sequence for recorded in first.history) + size - 1


def unknown_batch(batch_id: BatchId) -> RejectedError:
    return RejectedError(Code.UNKNOWN_BATCH, f"there is no batch {batch_id}", batch_id=batch_id)
