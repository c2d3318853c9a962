"""What dispatchers have learned of backends and what operators have paused: FLEET and CONTROL, followed.

The one rule: it only reads, and both may be empty; a backend that nobody has looked at yet is in neither.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
import structlog

from schemas import control, fleet
from schemas.control import Pause
from schemas.fleet import Health, Learned
from schemas.ids import BackendId
from schemas.subjects import CONTROL, FLEET
from services.bus.connection import Bus
from services.bus.followed import Followed

log = structlog.get_logger()

_OWN_WRITE_S: Final = 1.0

W = TypeVar("W", Health, Learned)


class KnownFleet:
    """``instance`` is this process's own name.

    ``pauses`` are by key (schemas.control), what ``control.paused`` asks for.
    """

    def __init__(self, bus: Bus, instance: str) -> None:
        self._fleet = Followed(bus, FLEET, f"fleet-{instance}", fleet.read)
        self._control = Followed(bus, CONTROL, f"control-{instance}", _pause)
        self.health: Mapping[BackendId, Health] = {}
        self.learned: Mapping[BackendId, Learned] = {}
        self.pauses: Mapping[str, Pause] = self._control.entries
        self.known = asyncio.Event()
        """Set once what was there at the start is known."""

    async def follow(self) -> None:
        """Keep up with both buckets; runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_fleet())
            group.create_task(self._follow_control())
            for one in (self._fleet, self._control):
                await one.known.wait()
            self.known.set()

    async def reached(self, revision: int) -> None:
        """Wait a moment until a write of our own to CONTROL is in ``pauses``."""
        await self._control.reached(revision, _OWN_WRITE_S)

    async def _follow_fleet(self) -> None:
        async for _ in self._fleet.changes():
            self.health, self.learned = self._of(Health), self._of(Learned)

    async def _follow_control(self) -> None:
        async for _ in self._control.changes():
            pass  # ``pauses`` are its entries

    def _of(self, kind: type[W]) -> dict[BackendId, W]:
        return {name: what for name, what in self._fleet.entries.values() if isinstance(what, kind)}


def _pause(key: str, value: bytes) -> Pause | None:
    try:
        return control.decode(value)
    except msgspec.MsgspecError as error:
        log.warning("control.undecodable", key=key, error=str(error))
        return None
