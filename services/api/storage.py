"""How full the store of the NATS server is, looked at every few seconds.

The one rule: new work is refused while there is still room for the events of what was accepted.
"""

import asyncio
from typing import Final

import structlog

from schemas.errors import UnavailableError
from services.bus.connection import ApiError, Bus
from services.bus.streams import storage_share

log = structlog.get_logger()

FULL_SHARE: Final = 0.8
_INTERVAL_S: Final = 3.0
_SOON_S: Final = 0.25


class Storage:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.full = False

    async def watch(self) -> None:
        """Keep ``full`` up to date; runs until cancelled."""
        while True:
            try:
                share = await storage_share(self._bus)
            except (UnavailableError, ApiError):
                await asyncio.sleep(_SOON_S)
                continue
            if self.full != (share > FULL_SHARE):
                self.full = share > FULL_SHARE
                log.warning("storage.full" if self.full else "storage.free", share=round(share, 3))
            await asyncio.sleep(_INTERVAL_S)
