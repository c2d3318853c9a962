"""sd-server of stable-diffusion.cpp by its native API: a job is submitted, then asked for until it ends.

The one rule: only the server's word ends a job. It goes on when its client is silent or gone, and cannot
be stopped once it generates, so a stopped call waits like any other.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import aiohttp

from schemas.ids import TaskId
from schemas.registry import Backend
from schemas.requests import ImageRequest
from services.dispatcher.backends import sdcpp_wire as wire
from services.dispatcher.backends.base import (
    Attached,
    Failed,
    Finished,
    Health,
    Job,
    Misconfigured,
    Ready,
    Report,
)
from services.dispatcher.backends.classify import (
    OK,
    Broken,
    Reply,
    cancelled,
    health,
    models_listed,
    unless_stopped,
    wrong_kind,
)
from services.dispatcher.backends.http import Endpoint
from services.dispatcher.backends.polling import Drought, Unclear, hopeless, next_poll, without_answer
from services.process import at_most

POLL_TIMEOUT_S: Final = 5.0
IDLE_TIMEOUT_S: Final = 2.0
_RETRY_GAP_S: Final = 0.25


class SdcppAdapter:
    """See the module."""

    resumes = True

    def __init__(self, session: aiohttp.ClientSession, backend: Backend) -> None:
        self._endpoint = Endpoint(session, backend)

    def call(self, job: Job) -> "SdcppCall":
        return SdcppCall(self._endpoint, job)

    async def probe(self, timeout_s: float) -> Health:
        answer = await self._endpoint.get(wire.CAPABILITIES, timeout_s / 2)
        if isinstance(answer, Broken) or answer.status != OK:
            return health(answer)
        name = wire.model_name(answer.body)
        if name is None:
            return Misconfigured(f"{wire.CAPABILITIES} answers, but not as an sd-server does")
        if name:
            return Ready((name,))
        listed = await self._endpoint.get("/v1/models", timeout_s / 2)
        return Ready(models_listed(listed.body) if isinstance(listed, Reply) else ())

    async def idle(self, remote_id: str | None, task_id: TaskId | None = None) -> bool | None:  # noqa: ARG002 - the port's; it never got that
        path = wire.CAPABILITIES if remote_id is None else wire.job_path(remote_id)
        free = wire.idle(await self._endpoint.get(path, IDLE_TIMEOUT_S))
        # Without an id, only a process that is gone tells anything.
        return free or None if remote_id is None else free


class SdcppCall:
    """One job. ``stop`` only leaves word: the loop that polls also sends the cancel."""

    def __init__(self, endpoint: Endpoint, job: Job) -> None:
        self._endpoint = endpoint
        self._job = job
        self._stopping = asyncio.Event()
        self._told = False

    async def stop(self) -> None:
        self._stopping.set()

    async def reports(self) -> AsyncIterator[Report]:
        request = self._job.request
        if not isinstance(request, ImageRequest):
            yield wrong_kind()
            return
        if self._job.remote_id is not None:
            yield await self._end(self._job.remote_id, request.seed)
            return
        if self._stopping.is_set():
            yield cancelled()
            return
        remote_id = wire.accepted(await self._endpoint.post(wire.SUBMIT, wire.submission(request)))
        if isinstance(remote_id, Failed):
            yield remote_id
            return
        yield Attached(remote_id)
        yield await self._end(remote_id, request.seed)

    async def _end(self, remote_id: str, seed: int | None) -> Finished | Failed:
        state = await self._ended(remote_id)
        if isinstance(state, Failed):
            return state
        if self._stopping.is_set() and state.status != wire.FAILED:
            return cancelled()
        end = await asyncio.to_thread(wire.result, state, seed)
        return unless_stopped(end, stopped=self._stopping.is_set())

    async def _ended(self, remote_id: str) -> wire.JobState | Failed:
        """Ask until there is an end, closely when it is near."""
        now = asyncio.get_running_loop().time
        began, drought = now(), Drought()
        while True:
            gap_s = next_poll(now() - began, self._job.expected_s)
            await self._pause(gap_s if drought == Drought() else max(gap_s, _RETRY_GAP_S))
            await self._cancel_if_stopping(remote_id)
            state = wire.understood(await self._endpoint.get(wire.job_path(remote_id), POLL_TIMEOUT_S))
            match state:
                case Failed():
                    return state
                case wire.JobState():
                    if state.status in wire.TERMINAL:
                        return state
                    drought = Drought()
                case Unclear():
                    drought = without_answer(drought, state.trouble, now())
                    if hopeless(drought, now()):
                        return state.failure

    async def _cancel_if_stopping(self, remote_id: str) -> None:
        """Pass the wish to stop on, once. Whatever is answered, the polls find out how the job ends."""
        if self._stopping.is_set() and not self._told:
            answer = await self._endpoint.post(f"{wire.job_path(remote_id)}/cancel", {}, POLL_TIMEOUT_S)
            self._told = isinstance(answer, Reply)

    async def _pause(self, seconds: float) -> None:
        """Sleep; a wish to stop that was not passed on yet ends the sleep."""
        if self._stopping.is_set():
            await asyncio.sleep(seconds)
            return
        async with at_most(seconds):
            await self._stopping.wait()
