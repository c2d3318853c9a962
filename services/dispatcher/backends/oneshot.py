"""The call of every protocol in which one request is the attempt and its answer is the end.

The one rule: without an answer nobody knows whether the GPU is free, so a stopped call still waits for
it, unless the backend is known to stop when its client goes away.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp

from schemas.ids import TaskId
from schemas.registry import Backend
from services.dispatcher.backends import openai_health
from services.dispatcher.backends.base import Failed, Finished, Health, Job, Report
from services.dispatcher.backends.classify import cancelled, unless_stopped
from services.dispatcher.backends.http import Endpoint


class OneShot:
    """One attempt; ``attempt`` makes the request and reads its answer, and raises nothing."""

    def __init__(
        self, attempt: Callable[[], Awaitable[Finished | Failed]], *, disconnect_cancels: bool
    ) -> None:
        self._attempt = attempt
        self._disconnect_cancels = disconnect_cancels
        self._stopped = False
        self._connection: asyncio.Timeout | None = None

    async def reports(self) -> AsyncIterator[Report]:
        yield await self._end()

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        if self._connection is not None and self._disconnect_cancels:
            self._connection.reschedule(asyncio.get_running_loop().time())

    async def _end(self) -> Finished | Failed:
        if self._stopped:
            return cancelled()
        try:
            async with asyncio.timeout(None) as self._connection:
                end = await self._attempt()
        except TimeoutError:
            return cancelled()
        finally:
            self._connection = None
        return unless_stopped(end, stopped=self._stopped)


class OneShotAdapter:
    """An adapter whose every call is one request, to a server with OpenAI's routes."""

    resumes = False

    def __init__(self, session: aiohttp.ClientSession, backend: Backend) -> None:
        self._endpoint = Endpoint(session, backend)
        self._disconnect_cancels = backend.disconnect_cancels

    def call(self, job: Job) -> OneShot:
        return OneShot(lambda: self.attempt(job), disconnect_cancels=self._disconnect_cancels)

    async def probe(self, timeout_s: float) -> Health:
        return await openai_health.probe(self._endpoint, timeout_s)

    async def idle(self, remote_id: str | None, task_id: TaskId | None = None) -> bool | None:  # noqa: ARG002 - the port's; no server has heard of either
        return await openai_health.idle(self._endpoint)

    async def attempt(self, job: Job) -> Finished | Failed:
        """Make the one request of a job, and read its answer."""
        raise NotImplementedError
