"""The GPU instances as this dispatcher knows them: registry entry, adapter, health, slots.

The one rule: an instance is probed until it is up, and never written off.
"""

import asyncio
import contextlib

import aiohttp
import structlog
from msgspec.structs import replace

from schemas import registry
from schemas.errors import UnavailableError
from schemas.ids import BackendId
from schemas.registry import Backend, Protocol, Wanted
from schemas.subjects import BACKENDS, lease_key
from services.bus.buckets import Bucket
from services.bus.connection import Bus
from services.bus.tickets import Puller
from services.dispatcher.backends.base import Adapter, Health, Ready
from services.dispatcher.backends.detect import adapter_for, recognise
from services.dispatcher.policies.health import Condition, State, next_probe_s, probed, served, suspended
from services.leases import Held
from services.settings import Settings

log = structlog.get_logger()


class Slot:
    """One request that an instance serves at a time. ``occupied``: this dispatcher is at work on it."""

    def __init__(self, backend: BackendId, number: int, bus: Bus) -> None:
        self.backend = backend
        self.number = number
        self.key = lease_key(backend, number)
        self.puller = Puller(bus)
        self.held: Held | None = None
        self.occupied = False

    def holds(self) -> Held | None:
        """Give our lease of it while it is good."""
        if self.held is not None and not self.held.valid:
            return None
        return self.held


class Instance:
    def __init__(self, backend: Backend, session: aiohttp.ClientSession, bus: Bus) -> None:
        self._session = session
        self._bus = bus
        self._look = asyncio.Event()
        self.state = State()
        self.adapter: Adapter | None = None
        self.slots: list[Slot] = []
        self.turn = 0
        self.backend = backend
        self.update(backend)

    def update(self, backend: Backend) -> None:
        """Take in a new registry entry."""
        moved = backend.url != self.backend.url or backend.speaks != self.backend.speaks
        self.backend = backend
        if moved or self.adapter is None:
            self.adapter = adapter_for(self._session, backend) if backend.speaks else None
            self.state = State()
            self._look.set()
        self.slots = self.slots[: backend.slots]
        while len(self.slots) < backend.slots:
            self.slots.append(Slot(backend.name, len(self.slots), self._bus))

    @property
    def usable(self) -> bool:
        """Whether it may be given work."""
        return self.adapter is not None and self.state.up and self.backend.wanted is Wanted.ON

    @property
    def busy(self) -> int:
        return sum(slot.occupied for slot in self.slots)

    def suspend(self, condition: Condition, reason: str) -> None:
        """Stop giving it work until a probe succeeds."""
        self._become(suspended(self.state, condition, reason))
        self._look.set()

    def served(self) -> None:
        """Note that a call was served."""
        self.state = served(self.state)

    def _become(self, state: State) -> None:
        if state.condition is not self.state.condition:
            log.info(
                "backend.changed",
                backend=self.backend.name,
                condition=str(state.condition),
                url=self.backend.url,
                reason=state.reason,
            )
        self.state = state

    async def probe(self, settings: Settings) -> Health:
        """Look at it once, recognising its protocol first where nobody has said it."""
        if self.adapter is None:
            seen = await recognise(self._session, self.backend, settings.probe_timeout_s)
            if not isinstance(seen, Protocol):
                return seen
            self.update(replace(self.backend, learned_protocol=seen))
        if self.adapter is None:
            raise AssertionError("a backend whose protocol is known has an adapter")
        return await self.adapter.probe(settings.probe_timeout_s)

    async def keep_probing(self, settings: Settings, changed: asyncio.Event) -> None:
        """Probe for ever; ``changed`` is set when it can be given work, or no more."""
        while True:
            self._look.clear()
            usable = self.usable
            seen = await self.probe(settings)
            self._become(probed(self.state, seen, busy=self.busy > 0))
            if isinstance(seen, Ready):
                await self._remember(seen)
            if self.usable != usable:
                changed.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s(settings)):
                    await self._look.wait()
                    # Something has changed while it was UP; what is not is given time to become so.
                    await asyncio.sleep(0 if self.state.up else self._pause_s(settings))

    def _pause_s(self, settings: Settings) -> float:
        return next_probe_s(
            self.state,
            busy=self.busy > 0,
            idle_s=settings.probe_idle_s,
            busy_s=settings.probe_busy_s,
        )

    async def _remember(self, seen: Ready) -> None:
        """Write what was learned into the registry, where the api finds the models there are."""
        bucket = Bucket(self._bus, BACKENDS)
        try:
            entry = await bucket.get(self.backend.name)
            if entry.value is None:
                return
            known = registry.decode(entry.value)
            learned = replace(
                known,
                learned_protocol=self.backend.learned_protocol or known.learned_protocol,
                learned_models=seen.models or known.learned_models,
            )
            if learned != known:
                await bucket.replace(known.name, registry.encode(learned), entry.revision)
        except UnavailableError:
            return  # the next probe tries again


class Registry:
    """Follows the bucket BACKENDS and keeps an instance, and its probing, for each entry."""

    def __init__(
        self,
        bus: Bus,
        session: aiohttp.ClientSession,
        settings: Settings,
        name: str,
        changed: asyncio.Event,
    ) -> None:
        self._bus = bus
        self._session = session
        self._settings = settings
        self._watch = Bucket(bus, BACKENDS).watch(f"backends-{name}")
        self._probing: dict[BackendId, asyncio.Task[None]] = {}
        self.instances: dict[BackendId, Instance] = {}
        self.changed = changed

    def knows(self, slot: Slot) -> bool:
        instance = self.instances.get(slot.backend)
        return instance is not None and slot in instance.slots

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
        instance = self.instances[name] = Instance(backend, self._session, self._bus)
        self._probing[name] = group.create_task(instance.keep_probing(self._settings, self.changed))
