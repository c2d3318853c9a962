"""AUTOMATIC1111's web UI, Forge, SD.Next, KoboldCpp: one long request a picture, and a look each second.

The one rule: an interruption strikes whatever runs, so it is sent only while our request is under way and
the server does not say that another's runs. The request then succeeds with half a picture, which is thrown
away.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

import aiohttp

from schemas.ids import TaskId
from schemas.registry import Backend
from schemas.requests import ImageRequest
from services.dispatcher.backends import images
from services.dispatcher.backends import sdapi_wire as wire
from services.dispatcher.backends.base import (
    Failed,
    Finished,
    Health,
    Job,
    Misconfigured,
    Previewed,
    Progressed,
    Ready,
    Report,
)
from services.dispatcher.backends.classify import (
    OK,
    Broken,
    cancelled,
    health,
    lease_lost,
    no_success,
    wrong_kind,
)
from services.dispatcher.backends.http import Endpoint
from services.dispatcher.backends.oneshot import OneShot
from services.process import at_most

LOOK_EVERY_S: Final = 1.0
LOOK_TIMEOUT_S: Final = 5.0
IDLE_TIMEOUT_S: Final = 2.0


class SdapiAdapter:
    """See the module."""

    resumes = False

    def __init__(self, session: aiohttp.ClientSession, backend: Backend) -> None:
        self._endpoint = Endpoint(session, backend)
        self._disconnect_cancels = backend.disconnect_cancels

    def call(self, job: Job) -> "SdapiCall":
        return SdapiCall(self._endpoint, job, disconnect_cancels=self._disconnect_cancels)

    async def probe(self, timeout_s: float) -> Health:
        """Ask for what runs, or for the samplers where that is not told, and then for the models."""
        share_s = timeout_s / 3
        up = await self._endpoint.get(wire.PROGRESS, share_s)
        understood = wire.seen(up) is not None
        if wire.has_no_route(up):
            up = await self._endpoint.get(wire.SAMPLERS, share_s)
            understood = not isinstance(up, Broken) and wire.speaks_sdapi(up)
        if isinstance(up, Broken) or up.status != OK:
            return health(up)
        if not understood:
            return Misconfigured("it answers, but not as a server with /sdapi/v1 does")
        models = await self._endpoint.get(wire.CHECKPOINTS, share_s)
        if wire.has_no_route(models):
            return Ready()
        if isinstance(models, Broken) or models.status != OK:
            return health(models)
        return Ready(wire.checkpoints(models.body))

    async def idle(self, remote_id: str | None, task_id: TaskId | None = None) -> bool | None:  # noqa: ARG002 - the port's; none is ever given out
        if task_id is not None:
            asked = {"id_task": task_id, "live_preview": False}
            gone = wire.gone(await self._endpoint.post(wire.TASK, asked, IDLE_TIMEOUT_S))
            if gone is not None:
                return gone
        return wire.idle(await self._endpoint.get(wire.PROGRESS, IDLE_TIMEOUT_S))


class SdapiCall(OneShot):
    """One job, a request for each of its pictures."""

    def __init__(self, endpoint: Endpoint, job: Job, *, disconnect_cancels: bool) -> None:
        super().__init__(self._drawn, disconnect_cancels=disconnect_cancels)
        self._endpoint = endpoint
        self._job = job
        self._number = 0
        self._watched: int | None = None
        """Which of our pictures the last look found, if that is to be seen at the next."""
        self._hurry = asyncio.Event()

    async def stop(self) -> None:
        await super().stop()
        self._hurry.set()

    async def reports(self) -> AsyncIterator[Report]:
        drawing = asyncio.ensure_future(self._end())
        try:
            while told := await self._until(drawing):
                for report in told:
                    yield report
            yield await drawing
        finally:
            drawing.cancel()

    async def _drawn(self) -> Finished | Failed:
        """Ask for one picture after the other."""
        request = self._job.request
        if not isinstance(request, ImageRequest):
            return wrong_kind()
        pictures: list[str | bytes] = []
        for self._number in range(request.n):
            if self._number and not await self._job.may_go_on():
                return lease_lost()
            body = wire.body(request, self._job.model, self._job.task_id, self._number)
            answer = await self._endpoint.post(wire.TXT2IMG, body)
            if isinstance(answer, Broken) or answer.status != OK:
                return no_success(answer)
            if self._stopped:
                return cancelled()  # whatever it is that was drawn until then
            found = await asyncio.to_thread(wire.picture, answer.body)
            if isinstance(found, Failed):
                return found
            pictures.append(found)
        return await asyncio.to_thread(images.finished, pictures, request.seed)

    async def _until(self, drawing: asyncio.Future[Finished | Failed]) -> Sequence[Progressed | Previewed]:
        """Wait for the next that is told of how far it is, or for the end, of which nothing is."""
        looking = asyncio.ensure_future(self._look())
        try:
            await asyncio.wait((drawing, looking), return_when=asyncio.FIRST_COMPLETED)
            return () if drawing.done() else looking.result()
        finally:
            looking.cancel()

    async def _look(self) -> Sequence[Progressed | Previewed]:
        """Look until there is something to tell; a wish to stop is passed on here, until it is heard.

        A preview is asked for between two looks that find the same picture of ours, or it might be
        of another's.
        """
        request = self._job.request
        while isinstance(request, ImageRequest):
            await self._pause()
            number = self._number
            showing, self._watched = self._watched == number, None
            path = wire.PICTURED if showing else wire.PROGRESS
            answer = await self._endpoint.get(path, LOOK_TIMEOUT_S)
            if wire.has_no_route(answer):
                break
            found = wire.seen(answer)
            if found is None or not found.busy or not await self._is_ours():
                continue
            if self._stopped and not found.state.interrupted:
                await self._endpoint.post(wire.INTERRUPT, {}, LOOK_TIMEOUT_S)
            if number != self._number:
                continue
            self._watched = None if showing else number
            preview = wire.previewed(found)
            progress = wire.progressed(found, number, request.n)
            return (progress, preview) if preview else (progress,)
        never: asyncio.Future[Sequence[Progressed | Previewed]] = asyncio.get_running_loop().create_future()
        return await never

    async def _is_ours(self) -> bool:
        """Whether our request is what runs; where the server cannot tell, it is taken for it."""
        asked = {"id_task": self._job.task_id, "live_preview": False}
        answer = await self._endpoint.post(wire.TASK, asked, LOOK_TIMEOUT_S)
        return wire.runs(answer) is not False

    async def _pause(self) -> None:
        """Sleep; a wish to stop ends the sleep."""
        async with at_most(LOOK_EVERY_S):
            await self._hurry.wait()
        self._hurry.clear()
