"""Slots as tickets get them: leased, changed for a better one, freed.

The one rule: the new slot is leased before the old one is left.
"""

import asyncio
from collections.abc import Sequence

from schemas.events import Decision
from schemas.ids import BackendId
from schemas.lease import Lease
from schemas.requests import AnySubmission
from schemas.subjects import Lane
from services import clock
from services.bus.tickets import Ticket
from services.dispatcher.instances import Instance, Seat, Slot
from services.dispatcher.overview import Overview
from services.dispatcher.parking import Parking
from services.dispatcher.placing import able_gpus, better_place
from services.dispatcher.registry import Registry
from services.leases import Leases
from services.scheduling.deciding import decision
from services.scheduling.fairness import Turns
from services.scheduling.matching import match
from services.scheduling.situation import Choice, Gpu, Line
from services.settings import Settings


class Seating:
    def __init__(self, leases: Leases, registry: Registry, settings: Settings) -> None:
        self._leases = leases
        self._registry = registry
        self._settings = settings
        self._overview = Overview(leases, registry, settings)

    @property
    def any_free(self) -> bool:
        """Whether work could begin anywhere."""
        return self._overview.any_free

    @property
    def gpus(self) -> list[Gpu]:
        """Those that take work, busy and free."""
        return self._overview.gpus()

    def choose(self, turns: Turns, parking: Parking, now: float) -> Choice | None:
        """Say which lane is served next and where, None for none now."""
        parked = parking.backends

        def waits(instance: Instance) -> bool:
            backend = instance.backend
            return backend.name in parked or turns.waits(backend.kind, instance.models.keys())

        if not turns.any_wait or not self._overview.could_begin(waits):
            return None
        return self._match(turns, parking.with_models(self.gpus), now)

    def take(self, choice: Choice, turn: int) -> Seat:
        """Keep the slot of a choice from other work here."""
        instance = self._registry.instances[choice.backend]
        instance.turn = turn
        return Seat(instance, instance.slots[choice.slot], choice.decision)

    async def lease(self, slot: Slot) -> bool:
        """Make sure that the slot is ours; False when somebody else was faster, or NATS is away."""
        if slot.holds() is None:
            if slot.held is not None:
                self._leases.forget(slot.held)  # else it would be renewed for nobody
            slot.held = await self._leases.take(slot.key, Lease(since=clock.now()))
        return slot.held is not None

    async def pull(self, slot: Slot, lane: Lane, wait_s: float) -> Ticket | None:
        """Lease the slot and pull a ticket for it, at once where nobody else is about to do the same."""
        if slot.holds() is not None or not self._leases.alone:
            return await slot.puller.pull(lane, wait_s) if await self.lease(slot) else None
        leasing = asyncio.create_task(self.lease(slot))
        try:
            ticket = await slot.puller.pull(lane, wait_s)
        finally:
            leased = await leasing
        if ticket is not None and not leased:
            await ticket.give_back()
            return None
        return ticket

    async def leave(self, seat: Seat) -> None:
        """Free the slot, and release its lease if the registry has dropped it while it worked."""
        slot = seat.slot
        seat.vacate()
        if slot.idle and slot.held is not None and not self._registry.knows(slot):
            await slot.held.release()
        self._leases.changed.set()

    async def better(self, submission: AnySubmission, seat: Seat, lane: Lane) -> bool:
        """Move to where this very task should run; False where it has to wait for that place."""
        policy = self._settings.policy_of(lane.kind)
        here = seat.instance.backend.name
        place = better_place(submission, lane, here, self._overview.gpus, policy)
        return place is None or await self._move(seat, place.backend, place.decision) or not place.waits

    async def elsewhere(self, seat: Seat, lane: Lane) -> bool:
        """Move to a free slot of another backend that can run the lane, if there is one."""
        here = seat.instance.backend.name
        others = [gpu for gpu in able_gpus(lane, self._overview.gpus()) if gpu.free and gpu.name != here]
        turns = Turns()
        turns.admit({lane: Line(lane=lane)})
        choice = self._match(turns, others, now=0.0)
        if choice is None:
            return False
        why = decision(choice.decision.policy, "elsewhere", choice.decision.candidates)
        return await self._move(seat, choice.backend, why)

    def _match(self, turns: Turns, gpus: Sequence[Gpu], now: float) -> Choice | None:
        settings = self._settings
        return match(turns, gpus, settings.policy_of, now=now, model_load_s=settings.model_load_s)

    async def _move(self, seat: Seat, backend: BackendId, why: Decision) -> bool:
        instance = self._registry.instances.get(backend)
        slot = self._overview.free_slot(backend)
        if instance is None or slot is None:
            return False
        other = Seat(instance, slot, why)
        if not await self.lease(slot):
            await self.leave(other)
            return False
        seat.vacate()
        seat.change(instance, slot, why)
        self._leases.changed.set()
        return True
