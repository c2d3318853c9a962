"""What dispatchers learn of the GPUs and share, by the bucket FLEET: speeds, loaded models, circuits.

The one rule: what this process has seen counts here at once; it is written behind the work, not before it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from schemas import fleet
from schemas.errors import UnavailableError
from schemas.fleet import Health, Learned
from schemas.ids import BackendId
from schemas.subjects import FLEET
from services.bus.buckets import Bucket
from services.bus.connection import ApiError, Bus
from services.bus.followed import Followed
from services.scheduling import estimates

_PAUSE_S: Final = 0.25

Heard = Callable[[BackendId, Health], None]


class Fleet:
    """``name`` is this dispatcher's; ``on_health`` is told what another one says of a backend."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bucket = Bucket(bus, FLEET)
        self._followed = Followed(bus, FLEET, f"fleet-{name}", fleet.read)
        self._untold: dict[str, Health | Learned] = {}
        self._wake = asyncio.Event()
        self._learned: dict[BackendId, Learned] = {}
        self._health: dict[BackendId, Health] = {}
        self.name = name
        self.on_health: Heard = lambda _backend, _health: None

    def learned(self, backend: BackendId) -> Learned:
        return self._learned.get(backend, Learned())

    def starting(self, backend: BackendId, model: str, keeps: int) -> None:
        """Note that a run begins, after which that model is the one used last there."""
        known = self.learned(backend)
        warm = estimates.after(known.warm, model, keeps)
        if warm != known.warm:
            self._learn(backend, replace(known, warm=warm))

    def ran(
        self, backend: BackendId, model: str, units: float, took_s: float, *, cold: bool, keeps: int
    ) -> None:
        """Note how long a run took that succeeded."""
        known = self.learned(backend)
        self._learn(backend, estimates.learned(known, model, units, took_s, cold=cold, keeps=keeps))

    def emptied(self, backend: BackendId) -> None:
        """Note that a backend was started anew, so that nobody knows what it has loaded."""
        known = self.learned(backend)
        if known.warm:
            self._learn(backend, replace(known, warm=()))

    def tell(self, backend: BackendId, health: Health) -> None:
        """Say how a backend is."""
        self._health[backend] = health
        self._write(fleet.health_key(backend), health)

    def health(self, backend: BackendId) -> Health | None:
        """Give what was said of a backend last, by whoever said it, or is about to be said by us."""
        return self._health.get(backend)

    def _learn(self, backend: BackendId, learned: Learned) -> None:
        self._learned[backend] = replace(learned, by=self.name)
        self._write(fleet.learned_key(backend), self._learned[backend])

    def _write(self, key: str, value: Health | Learned) -> None:
        self._untold[key] = value
        self._wake.set()

    async def follow(self) -> None:
        """Keep up with what the others say; runs until cancelled."""
        async for keys in self._followed.changes():
            for key in keys:
                match self._followed.entries.get(key):
                    case (backend, Health(by=by) as health) if by != self.name:
                        self._health[backend] = health
                        self.on_health(backend, health)
                    case (backend, Learned(by=by) as learned) if by != self.name:
                        self._learned[backend] = learned

    async def keep(self) -> None:
        """Write what has changed, a few times a second at most; runs until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            for key in tuple(self._untold):
                value = self._untold.pop(key)
                try:
                    await self._bucket.put(key, fleet.encode(value))
                except (UnavailableError, ApiError):
                    self._untold.setdefault(key, value)
                    self._wake.set()
            await asyncio.sleep(_PAUSE_S)
