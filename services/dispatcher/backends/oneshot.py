"""The call of every protocol in which one request is the attempt and its answer is the end.

The one rule: without an answer nobody knows whether the GPU is free, so a stopped call still waits for
it, unless the backend is known to stop when its client goes away.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from services.dispatcher.backends.base import Failed, Finished, Report
from services.dispatcher.backends.classify import cancelled, unless_stopped


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
