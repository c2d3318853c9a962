"""Taking out of use the instances that announced themselves and have fallen silent.

The one rule: a silence counts only while they could have been heard, and what still runs there is let run.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog

from schemas.registering import lapsed
from schemas.registry import Backend
from services.api.known_models import KnownModels
from services.api.registrar import Registrar
from services.bus.connection import Bus
from services.leases import Leases

log = structlog.get_logger()

_GRACE_S: Final = 15.0
"""Within this time after we, or NATS, came back, every instance that lives has tried again."""


class Silence:
    """The sweeper's part that looks after the registry."""

    def __init__(
        self,
        bus: Bus,
        registrar: Registrar,
        models: KnownModels,
        leases: Leases,
        now: Callable[[], datetime],
    ) -> None:
        self._bus = bus
        self._registrar = registrar
        self._models = models
        self._leases = leases
        self._now = now

    async def end(self) -> None:
        """Take them out of use; UnavailableError without NATS."""
        if asyncio.get_running_loop().time() - self._bus.connected_since < _GRACE_S:
            return
        for backend in self._models.backends():
            if self._decide(backend) != backend:
                known, made = await self._registrar.edit(backend.name, self._decide)
                if known != made:
                    log.warning("backend.silent", backend=backend.name, removed=made is None)

    def _decide(self, known: Backend | None) -> Backend | None:
        if known is None:
            return None
        return lapsed(known, self._now(), running=len(self._leases.running(known.name)))
