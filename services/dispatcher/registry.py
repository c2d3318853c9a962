"""All GPU instances of the bucket BACKENDS, each probed as long as it is there.

The one rule: an instance is here exactly while the bucket has it and does not call it gone.
"""

import asyncio
from datetime import datetime, timedelta

import aiohttp

from schemas import fleet, registry
from schemas.ids import BackendId
from schemas.registry import Wanted
from schemas.subjects import BACKENDS, slot_of
from services.bus.buckets import Bucket
from services.bus.connection import Bus
from services.dispatcher.fleet import Fleet
from services.dispatcher.instances import Instance, Slot
from services.dispatcher.policies.health import Limits
from services.leases import Leases
from services.scheduling.estimates import Estimates
from services.scheduling.situation import Gpu
from services.settings import Settings


class Registry:
    """Follows the bucket BACKENDS and keeps an instance, and its probing, for each entry."""

    def __init__(
        self,
        bus: Bus,
        session: aiohttp.ClientSession,
        settings: Settings,
        shared: Fleet,
        leases: Leases,
    ) -> None:
        self._bus = bus
        self._session = session
        self._settings = settings
        self._fleet = shared
        self._limits = Limits(
            failures=settings.circuit_failures, open_for=timedelta(seconds=settings.circuit_open_s)
        )
        self._watch = Bucket(bus, BACKENDS).watch(f"backends-{shared.name}")
        self._probing: dict[BackendId, asyncio.Task[None]] = {}
        self.instances: dict[BackendId, Instance] = {}
        self._leases = leases
        self.changed = leases.changed
        shared.on_health = self._heard

    def _heard(self, name: BackendId, told: fleet.Health) -> None:
        if instance := self.instances.get(name):
            instance.heard(told)
            self.changed.set()

    def knows(self, slot: Slot) -> bool:
        instance = self.instances.get(slot.backend)
        return instance is not None and slot in instance.slots

    def resumes(self, key: str) -> bool:
        """Whether what was begun under a lease can be found again on its backend."""
        if (named := slot_of(key)) is None:
            return False
        backend, number = named
        instance = self.instances.get(backend)
        if instance is None or instance.adapter is None or not instance.adapter.resumes:
            return False
        return number < len(instance.slots)

    def expected_s(self, gpu: Gpu, model: str, units: float) -> float | None:
        """Give how long a run should take, with the load of a cold model; None while nothing is known."""
        others = [one.gpu() for one in self.instances.values() if one.backend.kind == gpu.kind]
        if not any(model in other.learned.seconds for other in others):
            return None
        known = Estimates(others, self._settings.model_load_s)
        return known.load_s(gpu, model, gpu.learned.warm) + known.run_s(gpu, model, units)

    def widths(self, now: datetime) -> dict[BackendId, int]:
        """Give how many slots of each instance may be given work."""
        widths = {name: one.width(now, last=False) for name, one in self.instances.items()}
        kinds = {self.instances[name].backend.kind for name, width in widths.items() if width}
        for name, one in self.instances.items():
            if one.backend.kind not in kinds:
                widths[name] = one.width(now, last=True)
        return widths

    async def follow(self) -> None:
        """Keep watching; runs until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            async for entries in self._watch.entries():
                for entry in entries:
                    self._apply(BackendId(entry.key), entry.value, group)
                self.changed.set()

    def _apply(self, name: BackendId, value: bytes | None, group: asyncio.TaskGroup) -> None:
        instance = self.instances.get(name)
        backend = registry.decode(value) if value else None
        if backend is None or backend.wanted is Wanted.GONE:
            if instance is not None:
                self._probing.pop(name).cancel()
                del self.instances[name]
            return
        if instance is not None:
            instance.update(backend)
            return
        instance = self.instances[name] = Instance(
            backend, self._session, self._bus, self._fleet, self._limits
        )
        self._probing[name] = group.create_task(instance.keep_probing(self._settings, self._leases))
