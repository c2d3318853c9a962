"""The GPU instances as this dispatcher knows them: registry entry, adapter, health, slots.

The one rule: an instance is probed until it is up, and never written off.
"""

import asyncio
from datetime import datetime

import aiohttp
import structlog
from msgspec.structs import replace

from schemas import fleet, registry
from schemas.errors import UnavailableError
from schemas.events import Decision
from schemas.fleet import Circuit, Condition
from schemas.ids import BackendId, TaskId
from schemas.registry import Backend, Protocol, Wanted
from schemas.subjects import BACKENDS, lease_key
from services import clock
from services.bus.buckets import Bucket
from services.bus.connection import Bus
from services.bus.tickets import Puller
from services.dispatcher.backends.base import Adapter, Health, Ready
from services.dispatcher.backends.detect import adapter_for, recognise
from services.dispatcher.fleet import Fleet
from services.dispatcher.policies import health
from services.dispatcher.policies.health import Limits, State
from services.leases import Held, Leases
from services.process import at_most
from services.scheduling.situation import Gpu
from services.settings import Settings

log = structlog.get_logger()


class Slot:
    """One request that an instance serves at a time.

    ``occupied``: this dispatcher is at work on it. ``recording``: the task whose result is being recorded
    while the next one may run, which ``records`` lets one task do at a time, since a lease names no more.
    """

    def __init__(self, backend: BackendId, number: int, bus: Bus) -> None:
        self.backend = backend
        self.number = number
        self.key = lease_key(backend, number)
        self.puller = Puller(bus)
        self.held: Held | None = None
        self.occupied = False
        self.recording: TaskId | None = None
        self.records = asyncio.Lock()

    @property
    def idle(self) -> bool:
        """Whether nothing here needs its lease."""
        return not self.occupied and self.recording is None

    def holds(self) -> Held | None:
        """Give our lease of it while it is good."""
        if self.held is not None and not self.held.valid:
            return None
        return self.held


class Seat:
    """The slot that a ticket has, and why that one; it may change. ``kept`` until it is vacated."""

    def __init__(self, instance: "Instance", slot: Slot, decision: Decision | None = None) -> None:
        self.change(instance, slot, decision)

    def change(self, instance: "Instance", slot: Slot, decision: Decision | None) -> None:
        """Occupy that slot; what becomes of the one before is the caller's business."""
        self.instance, self.slot, self.decision = instance, slot, decision
        self.kept = slot.occupied = True

    def vacate(self) -> None:
        """Let others have the slot; once only, since by the second time it may be another's."""
        if self.kept:
            self.kept = self.slot.occupied = False


class Instance:
    def __init__(
        self, backend: Backend, session: aiohttp.ClientSession, bus: Bus, shared: Fleet, limits: Limits
    ) -> None:
        self._session = session
        self._bus = bus
        self._fleet = shared
        self._limits = limits
        self._look = asyncio.Event()
        self.state = State()
        self.adapter: Adapter | None = None
        self.slots: list[Slot] = []
        self.turn = 0
        self.backend = backend
        self.update(backend)
        if (told := shared.health(backend.name)) is not None:
            self.state = health.heard(self.state, told)

    def update(self, backend: Backend) -> None:
        """Take in a new registry entry."""
        called = ("url", "speaks", "api_key", "disconnect_cancels", "workflow")
        self.models = backend.own_names
        moved = any(getattr(backend, name) != getattr(self.backend, name) for name in called)
        self.backend = backend
        if moved or self.adapter is None:
            self.adapter = adapter_for(self._session, backend) if backend.speaks else None
            self.state = State()
            self._look.set()
        self.slots = self.slots[: backend.slots]
        while len(self.slots) < backend.slots:
            self.slots.append(Slot(backend.name, len(self.slots), self._bus))

    @property
    def in_service(self) -> bool:
        """Whether it would be given work if its circuit lets it."""
        return self.adapter is not None and self.state.up and self.backend.wanted is Wanted.ON

    def width(self, now: datetime, *, last: bool) -> int:
        """Give how many of its slots may be given work; ``last`` where no other of its kind takes any."""
        if not self.in_service:
            return 0
        return health.width(self.state, now, self.backend.slots, last=last)

    def gpu(self, free: tuple[int, ...] = (), rests_s: tuple[float, ...] = ()) -> Gpu:
        """Give it as a policy sees it."""
        backend = self.backend
        return Gpu(
            name=backend.name,
            kind=backend.kind,
            models=self.models,
            free=free,
            rests_s=rests_s,
            keeps=backend.keeps,
            weight=backend.weight,
            turn=self.turn,
            learned=self._fleet.learned(backend.name),
        )

    @property
    def busy(self) -> int:
        return sum(slot.occupied for slot in self.slots)

    def suspend(self, condition: Condition, reason: str) -> None:
        """Stop giving it work until a probe succeeds."""
        self._become(health.suspended(self.state, condition, reason))
        self._look.set()

    def served(self) -> None:
        """Note that a call was served."""
        self._become(health.served(self.state, clock.now(), self.backend.slots))

    @property
    def on_trial(self) -> bool:
        """Whether what begins there now is a canary."""
        return health.phase(self.state, clock.now()) is not Circuit.CLOSED

    def failed(self, reason: str, *, canary: bool) -> None:
        """Note that a call failed by the backend's own fault."""
        self._become(health.failed(self.state, reason, clock.now(), self._limits, canary=canary))

    def stuck(self, reason: str) -> None:
        """Note that a call of ours that was stopped, or lost, does not end."""
        self._become(health.stuck(self.state, reason, clock.now()))

    def unstuck(self) -> None:
        """Note that it has ended after all."""
        self._become(health.unstuck(self.state))

    def heard(self, told: fleet.Health) -> None:
        """Take in what another dispatcher says; whether it answers is looked at from here."""
        self.state = health.heard(self.state, told)
        if (told.condition is Condition.UP) != self.state.up:
            self._look.set()

    def _become(self, state: State) -> None:
        now = clock.now()
        before, self.state = self.state, state
        if health.shown(state, now) is not health.shown(before, now):
            log.info(
                "backend.changed",
                backend=self.backend.name,
                condition=str(health.shown(state, now)),
                url=self.backend.shown_url,
                reason=state.fault_reason or state.reason,
            )
        if state.up and before.condition is Condition.DOWN:
            self._fleet.emptied(self.backend.name)
        self._tell()

    def _tell(self) -> None:
        """Let the others know where what they know is not so."""
        told = health.told(self.state, clock.now(), self._fleet.name)
        known = self._fleet.health(self.backend.name)
        if known is None or replace(known, since=told.since, by=told.by) != told:
            self._fleet.tell(self.backend.name, told)

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

    async def keep_probing(self, settings: Settings, leases: Leases) -> None:
        """Probe for ever; ``leases.changed`` is set when it can be given work, or no more."""
        share = health.spread(self.backend.name)
        while True:
            self._look.clear()
            in_service = self.in_service
            seen = await self.probe(settings)
            self._become(health.probed(self.state, seen, busy=self._busy(leases)))
            if isinstance(seen, Ready):
                await self._remember(seen)
            if self.in_service != in_service:
                leases.changed.set()
            pause_s, share = share * self._pause_s(settings, busy=self._busy(leases)), 1.0
            async with at_most(pause_s):
                await self._look.wait()
                # Something has changed while it was UP; what is not is given time to become so.
                await asyncio.sleep(
                    0 if self.state.up else self._pause_s(settings, busy=self._busy(leases))
                )

    def _busy(self, leases: Leases) -> bool:
        return self.busy > 0 or bool(leases.running(self.backend.name))

    def _pause_s(self, settings: Settings, *, busy: bool) -> float:
        return health.next_probe_s(
            self.state,
            busy=busy,
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
