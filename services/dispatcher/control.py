"""What operators wish, by the bucket CONTROL: which queues are paused.

The one rule: a pause stops pulls; what has been pulled runs.
"""

import asyncio
import contextlib
from collections.abc import Set as AbstractSet

import msgspec

from schemas import control
from schemas.control import Pause
from schemas.subjects import CONTROL, Lane
from services.bus.connection import Bus
from services.bus.followed import Followed


class Control:
    """``changed`` is set whenever a wish has changed."""

    def __init__(self, bus: Bus, name: str, changed: asyncio.Event) -> None:
        self._followed = Followed(bus, CONTROL, f"control-{name}", _read)
        self._changed = changed

    async def follow(self) -> None:
        """Keep up with the wishes; runs until cancelled."""
        async for _ in self._followed.changes():
            self._changed.set()

    @property
    def known(self) -> asyncio.Event:
        """Set once what was there at the start is known."""
        return self._followed.known

    @property
    def pauses(self) -> AbstractSet[str]:
        """Give what is paused, by key."""
        return self._followed.entries.keys()

    def paused(self, lane: Lane) -> bool:
        pauses = self._followed.entries
        return bool(pauses) and control.paused(pauses, lane.kind, lane.model) is not None


def _read(_key: str, value: bytes) -> Pause | None:
    with contextlib.suppress(msgspec.MsgspecError):
        return control.decode(value)
    return None
