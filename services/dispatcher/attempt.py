"""One call to one backend, from its start to its end, whatever comes between.

The one rule: an interrupted call is stopped and then read to its end, since only that tells when the GPU is
free; the task does not wait for it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import StrEnum

from msgspec import Struct

from services.dispatcher.backends.base import (
    Attached,
    Call,
    Failed,
    Finished,
    Previewed,
    Progressed,
    Report,
)


class Reason(StrEnum):
    """Why a call was interrupted."""

    OVER = "over"  # the task has ended, or a later attempt has begun
    TAKEN = "taken"  # another dispatcher has gone on with this attempt
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    SHUTDOWN = "shutdown"
    LEFT = "left"  # for another dispatcher to go on with


_RUNS_ON = frozenset({Reason.TAKEN, Reason.LEFT})


class Interrupted(Struct, frozen=True):
    reason: Reason


class Attending:
    """Reads a call's reports. Anybody may ``interrupt`` it at any time; the first reason counts.

    ``attached``: the backend knows the attempt by an id, and so does the log.
    """

    def __init__(self, call: Call, *, attached: bool = False) -> None:
        self._call = call
        self.attached = attached
        self._reports: AsyncIterator[Report] = call.reports()
        self._next: asyncio.Task[Report] | None = None
        self._interrupt: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()

    @property
    def interrupted(self) -> bool:
        return self._interrupt.done()

    def shut_down(self) -> None:
        """Interrupt it because this dispatcher stops."""
        self.interrupt(Reason.LEFT if self.attached else Reason.SHUTDOWN)

    def interrupt(self, reason: Reason) -> None:
        if not self._interrupt.done():
            self._interrupt.set_result(reason)

    async def outcome(
        self, on_report: Callable[[Attached | Progressed | Previewed], Awaitable[None]]
    ) -> Finished | Failed | Interrupted:
        """Read until the call has ended or is interrupted; then it has been asked to stop.

        But for one that runs on in other hands.
        """
        while True:
            if self._next is None:
                self._next = asyncio.ensure_future(self._read())
            await asyncio.wait((self._next, self._interrupt), return_when=asyncio.FIRST_COMPLETED)
            if self._next.done():
                ended, self._next = self._next, None
                report = ended.result()
                if isinstance(report, Finished | Failed):
                    await self._close()
                    return report
                await on_report(report)
                self.attached |= isinstance(report, Attached)
            elif self._interrupt.done():
                reason = self._interrupt.result()
                if reason not in _RUNS_ON:
                    await self._call.stop()
                return Interrupted(reason)

    async def drained(self) -> None:
        """Wait until an interrupted call has ended."""
        while True:
            if self._next is None:
                self._next = asyncio.ensure_future(self._read())
            report = await self._next
            self._next = None
            if isinstance(report, Finished | Failed):
                return await self._close()

    async def abandon(self) -> None:
        """Let go of a call without waiting for its end."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait((self._next,))
        await self._close()

    async def _read(self) -> Report:
        return await anext(self._reports)

    async def _close(self) -> None:
        aclose = getattr(self._reports, "aclose", None)
        if aclose is not None:
            await aclose()
