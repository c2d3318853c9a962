"""Erasing what a task was made of and what came of it, for good; that it was there stays known.

The one rule: the erased event is stored first and stands for the whole life; deleting everything else is
repeated, by whoever finds that event, until nothing is left.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog
from litestar import delete
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from schemas import erasure, readmodel, views
from schemas.errors import Code, OutcomeUnknownError, RejectedError
from schemas.events import TaskErased
from schemas.ids import ArtifactId, TaskId, parse_task_id
from schemas.subjects import Address, address_of
from schemas.task import Task, fold
from schemas.views import API
from services.api import asking, lag, openapi, upto
from services.api.answer import JSON, Answer, Ask, encode
from services.api.queries import ReadModel
from services.api.reads import unknown_task
from services.api.recent import Recent
from services.api.tasks import BY_CLIENT
from services.artifacts import ArtifactStore
from services.bus.connection import Bus
from services.bus.forgetting import Erasures, forget
from services.bus.previews import Previews
from services.bus.stored import recorded
from services.bus.tasklog import LostRaceError, TaskLog

log = structlog.get_logger()

_ATTEMPTS: Final = 10
ERASED: Final = "ERASED"
ALREADY_ERASED: Final = "ALREADY_ERASED"


class Eraser:
    def __init__(
        self,
        bus: Bus,
        tasklog: TaskLog,
        model: ReadModel,
        store: ArtifactStore,
        recent: Recent,
        now: Callable[[], datetime],
        patience_s: float,
    ) -> None:
        self._bus = bus
        self._tasklog = tasklog
        self._model = model
        self._store = store
        self._previews = Previews(bus)
        self._erasures = Erasures(bus)
        self._recent = recent
        self._now = now
        self._patience_s = patience_s

    async def erase(self, task_id: TaskId, by: str) -> views.Erased:
        """Erase a finished task's content; once more where it was erased before.

        RejectedError(unknown_task, not_finished), UnavailableError while NATS is away: send it again.
        """
        for _ in range(_ATTEMPTS):
            number, address, task, last = await self._known(task_id)
            if not task.final:
                detail = f"the task is {task.status}; cancel it first, or wait for its end"
                raise RejectedError(Code.NOT_FINISHED, detail, task_id=task_id)
            if task.erased_at is not None:
                await self._clean(address, erasure.results(task))
                return views.Erased(task_id, ALREADY_ERASED, None, task.sequence)
            try:
                sequence = await self._tasklog.append(
                    address,
                    erasure.erased(task, number, by),
                    expected=last,
                    patience_s=self._patience_s,
                )
            except LostRaceError:
                continue
            self._recent.note(task_id, sequence)
            await self._clean(address, erasure.results(task))
            kept = await self._drop_recording(erasure.recording(task))
            log.info("task.erased", task_id=task_id, sequence=sequence)
            return views.Erased(task_id, ERASED, kept, sequence)
        raise OutcomeUnknownError(f"{task_id} changes faster than it can be erased")

    async def finish(self) -> None:
        """See the erasures through that somebody began and did not end."""
        async for address, stored in self._erasures.pending():
            _, found = recorded(stored)
            task = (await self._tasklog.lookup(address.task_id, address)).task
            # One that was not legal, or says nothing of the task, was written by a stranger.
            if isinstance(found.event, TaskErased) and found.event.facts and task.erased_at:
                await self._clean(address, erasure.results(task))
            await self._erasures.done(stored)

    async def _known(self, task_id: TaskId) -> tuple[int, Address, Task, int]:
        """Give the number of a task, where it lives, its whole state, and what an append expects.

        From the read model, which knows every event and keeps what has left the log.
        """
        found = await self._tasklog.lookup(task_id)
        if not await lag.reached(self._model, found.last):
            raise RejectedError(
                Code.READ_MODEL_AWAY, "the read model is behind the log; nothing was erased"
            )
        row = self._model.row(readmodel.GET_STATE, task_id)
        if row is None:
            raise unknown_task(task_id)
        number, address, _ = row
        wires = self._model.rows(readmodel.HISTORY_OF_TASK, number)
        task = fold(task_id, (views.recorded(wire) for (wire,) in wires))
        return number, address_of(address), task, found.last

    async def _clean(self, address: Address, artifacts: list[ArtifactId]) -> None:
        await forget(self._bus, address)
        await self._previews.purge(address.task_id)
        for name in artifacts:
            if info := await self._store.info(name):
                await self._store.delete(info, self._now())

    async def _drop_recording(self, name: ArtifactId | None) -> ArtifactId | None:
        """Delete the recording, unless a task that has not ended needs it: then give its name."""
        if name is None or (info := await self._store.info(name)) is None:
            return None
        if await self._model.page(readmodel.NEEDS_RECORDING, (name,)):
            return name
        await self._store.delete(info, self._now())
        return None


class ErasureRoutes:
    def __init__(self, eraser: Eraser) -> None:
        self._eraser = eraser

    def handlers(self) -> list[HTTPRouteHandler]:
        path = f"{API}/tasks/{{task_id:str}}/content"
        return [delete(path, status_code=200, opt=openapi.ERASE)(self.erase)]

    async def erase(self, request: Ask, task_id: FromPath[str]) -> ASGIApp:
        """Erase what a finished task was made of and what came of it."""
        asking.parameters(request.scope["query_string"])
        erased = await self._eraser.erase(parse_task_id(task_id), BY_CLIENT)
        return Answer(200, [JSON, (upto.HEADER, b"%d" % erased.sequence)], encode(erased))
