"""Who wants to know of a rebuild, and what they are told.

The one rule: telling may be lost; nothing waits for it.
"""

import asyncio
import contextlib
from typing import Any, Final

import structlog
from msgspec.structs import replace

from schemas import rebuilds
from schemas.errors import UnavailableError
from schemas.rebuilds import ENDS, Phase, Rebuild
from services.bus.connection import Bus, Msg
from services.process import at_most
from services.projector.build import Progress

log = structlog.get_logger()

TELL_S: Final = 0.5
_REACHED: Final = {Phase.CATCHING_UP: "built_s", Phase.COMPARING: "in_place_s"}
"""What is known once a phase has begun."""


class Rebuilds:
    """``asked`` is set when a rebuild is to begin; who asks in the middle of one joins it."""

    def __init__(self, bus: Bus, projector: str) -> None:
        self._bus = bus
        self._listeners: set[str] = set()
        self._began_at = 0.0
        self._clock = asyncio.get_running_loop().time
        self._heard = asyncio.Event()
        self.asked = asyncio.Event()
        self.state = Rebuild(projector=projector, phase=Phase.DONE)

    def receive(self, message: Msg) -> None:
        """Take a request in, and have it said at once that somebody is there."""
        if self.state.phase in ENDS:
            self.begin()
            self.asked.set()
        if message.reply:
            self._listeners.add(message.reply)
            self._heard.set()

    def begin(self) -> None:
        """Begin to count anew."""
        self._began_at = self._clock()
        self.state = Rebuild(projector=self.state.projector, phase=Phase.BUILDING)

    def built(self, progress: Progress) -> None:
        self.come_to(Phase.BUILDING, events=progress.events, of=progress.of)

    def come_to(self, phase: Phase, **what: Any) -> None:  # Any: members of Rebuild
        seconds = round(self._clock() - self._began_at, 3)
        reached = {_REACHED[phase]: seconds} if phase in _REACHED else {}
        self.state = replace(self.state, phase=phase, seconds=seconds, **reached, **what)

    async def end(self, phase: Phase, **what: Any) -> None:  # Any: as above
        """Say how it ended, and let all go who wanted to know."""
        self.come_to(phase, **what)
        await self._tell()
        self._listeners.clear()

    async def run(self) -> None:
        """Tell again and again while there is somebody to be told; runs until cancelled."""
        while True:
            async with at_most(TELL_S):
                await self._heard.wait()
            self._heard.clear()
            if self._listeners:
                await self._tell()

    async def _tell(self) -> None:
        with contextlib.suppress(UnavailableError):
            for listener in tuple(self._listeners):
                await self._bus.send(listener, rebuilds.encode(self.state))
