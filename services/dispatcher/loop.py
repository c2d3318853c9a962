"""The loop: what is free is matched with what waits, leased, and put to work.

The one rule: no ticket is pulled without a slot that can run it now.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine
from datetime import timedelta
from typing import Final

import structlog

from schemas.errors import UnavailableError, UndecodableError
from schemas.lease import Claim, Lease
from schemas.subjects import SUBMITTED, WAKE_CANCELLED, WAKE_EXPIRED, WAKE_SUBMITTED, Lane, parse_subject
from services import clock
from services.bus.connection import ApiError, Bus, Msg
from services.bus.streams import lane_depths
from services.bus.tickets import Ticket
from services.dispatcher.attempt import Reason
from services.dispatcher.board import Board
from services.dispatcher.desk import Desk, Outcome
from services.dispatcher.execution import Execution
from services.dispatcher.instances import Instance, Registry, Slot
from services.dispatcher.policies.balancing import POLICIES, FreeSlot, can_run, match
from services.leases import Leases
from services.settings import Settings

log = structlog.get_logger()

REFRESH_S: Final = 1.5
PULL_WAIT_S: Final = 0.25
LAST_WORDS_S: Final = 5.0
ELSEWHERE_PAUSE: Final = timedelta(seconds=1)


class Loop:
    """One dispatcher's steward of its share of the slots. ``changed``: another match may be possible."""

    def __init__(
        self,
        bus: Bus,
        leases: Leases,
        registry: Registry,
        desk: Desk,
        execution: Execution,
        settings: Settings,
    ) -> None:
        self._bus = bus
        self._leases = leases
        self._registry = registry
        self._desk = desk
        self._execution = execution
        self._settings = settings
        self._policy = POLICIES[settings.balancing]
        self._board = Board()
        self._turns = 0
        self._stopping = False
        self._pulls = 0
        self._tickets: set[Ticket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup
        self._changed = leases.changed
        bus.on_reconnect(self._changed.set)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop``, then finish or hand back what is under way."""
        async with asyncio.TaskGroup() as self._group:
            for job in (
                self._leases.follow(),
                self._leases.keep(),
                self._registry.follow(),
                self._refresh(),
            ):
                self._spawn(job)
            for subject in (WAKE_SUBMITTED, WAKE_CANCELLED, WAKE_EXPIRED):
                await self._bus.subscribe(subject, self._wake)
            self._spawn(self._on_stop(stop))
            while not self._stopping:
                await self._changed.wait()
                self._changed.clear()
                self._assign()
            await self._drain()
            await self._release_idle()
            # What still runs here keeps its lease: whoever takes it over waits for its GPU.
            for task in tuple(self._tasks):
                task.cancel()

    def _spawn(self, job: Coroutine[None, None, None]) -> None:
        task = self._group.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _on_stop(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping = True
        self._changed.set()

    async def _wake(self, message: Msg) -> None:
        """Hear of an event: a ticket to look for, or the end of a task that may be running here."""
        try:
            address, event = parse_subject(message.subject)
        except UndecodableError:
            return
        if event == SUBMITTED:
            self._board.hint(address.lane)
            self._changed.set()
        elif attending := self._execution.running.get(address.task_id):
            attending.interrupt(Reason.OVER)

    async def _refresh(self) -> None:
        """Read the depths anew, since wake-ups may be lost and redeliverable tickets send none."""
        while True:
            with contextlib.suppress(UnavailableError, ApiError):
                depths = await lane_depths(self._bus)
                in_hand = (t.address.lane for t in self._tickets if not t.out_of_hand)
                self._board.refresh(depths, Counter(in_hand))
            self._changed.set()
            await asyncio.sleep(REFRESH_S)

    def _assign(self) -> None:
        """Put every slot to work that has something to do, and give up the leases of the others."""
        if self._stopping or not self._leases.known.is_set() or not self._bus.connected:
            return
        slots = self._free_slots()
        while pair := match(self._board.candidates(), slots, self._policy):
            instance = self._registry.instances[pair.slot.backend]
            slot = instance.slots[pair.slot.number]
            slot.occupied = True
            self._turns += 1
            instance.turn = self._turns
            wait_s = PULL_WAIT_S if self._board.take(pair.lane) else 0.0
            self._spawn(self._serve(instance, slot, pair.lane, wait_s))
            slots = self._free_slots()
        for instance in self._registry.instances.values():
            for slot in instance.slots:
                self._tidy(instance, slot)

    def _tidy(self, instance: Instance, slot: Slot) -> None:
        """Release a lease that is not needed, and recover a slot that was lost by another dispatcher."""
        if slot.occupied:
            return
        if slot.held is not None:
            held, slot.held = slot.held, None
            self._spawn(held.release())
        elif self._leases.claim(slot.key) is Claim.STALE and instance.adapter is not None:
            slot.occupied = True
            self._spawn(self._recover(instance, slot))

    def _free_slots(self) -> list[FreeSlot]:
        free: list[FreeSlot] = []
        for instance in self._registry.instances.values():
            if not instance.usable:
                continue
            backend = instance.backend
            open_slots = [s for s in instance.slots if self._is_free(s)]
            free += [
                FreeSlot(
                    backend=backend.name,
                    number=slot.number,
                    kind=backend.kind,
                    models=backend.model_slugs,
                    busy=backend.slots - len(open_slots),
                    slots=backend.slots,
                    turn=instance.turn,
                )
                for slot in open_slots
            ]
        return free

    def _is_free(self, slot: Slot) -> bool:
        if slot.occupied:
            return False
        return slot.holds() is not None or (
            slot.held is None and self._leases.claim(slot.key) is Claim.FREE
        )

    async def _serve(self, instance: Instance, slot: Slot, lane: Lane, wait_s: float) -> None:
        """Lease the slot, pull a ticket and run it; afterwards the slot is matched again."""
        ticket = await self._pull(slot, lane, wait_s)
        if ticket is not None:
            self._tickets.add(ticket)
        try:
            while ticket is not None and await self._desk.run(ticket, instance, slot) is Outcome.ELSEWHERE:
                other = await self._handover(instance, lane)
                if other is None:
                    await ticket.give_back(ELSEWHERE_PAUSE)
                    break
                self._free(slot)
                instance, slot = other
        finally:
            if ticket is not None:
                self._tickets.discard(ticket)
            await self._give_up_if_removed(slot)
            self._free(slot)

    async def _pull(self, slot: Slot, lane: Lane, wait_s: float) -> Ticket | None:
        ticket = None
        self._pulls += 1
        try:
            if await self._lease(slot):
                ticket = await slot.puller.pull(lane, wait_s)
        except (UnavailableError, ApiError) as error:
            log.debug("pull.failed", lane=lane.name, error=str(error))
        finally:
            self._pulls -= 1
            self._board.pulled(lane, found=ticket is not None)
        if ticket is not None and self._stopping:
            await ticket.give_back()
            return None
        return ticket

    async def _give_up_if_removed(self, slot: Slot) -> None:
        """Release the lease of a slot that the registry has dropped while it worked."""
        if slot.held is not None and not self._registry.knows(slot):
            await slot.held.release()

    def _free(self, slot: Slot) -> None:
        slot.occupied = False
        self._changed.set()

    async def _lease(self, slot: Slot) -> bool:
        if slot.holds() is None:
            slot.held = await self._leases.take(slot.key, Lease(since=clock.now()))
        return slot.held is not None

    async def _handover(self, instance: Instance, lane: Lane) -> tuple[Instance, Slot] | None:
        """Lease a free slot of another backend that can run the lane, if there is one."""
        able = [s for s in self._free_slots() if s.backend != instance.backend.name and can_run(s, lane)]
        if not able:
            return None
        chosen = self._policy(able)
        other = self._registry.instances[chosen.backend]
        slot = other.slots[chosen.number]
        slot.occupied = True
        if await self._lease(slot):
            return other, slot
        self._free(slot)
        return None

    async def _recover(self, instance: Instance, slot: Slot) -> None:
        """Take over a slot whose dispatcher is lost, and keep it from work until its GPU is idle."""
        sighting = self._leases.sighting(slot.key)
        try:
            if sighting is not None:
                slot.held = await self._leases.take(slot.key, sighting.lease)
            if sighting is not None and slot.held is not None:
                log.info("slot.recovering", slot=slot.key, lost_by=sighting.lease.holder)
                await self._execution.drain_lost(instance, sighting.lease)
                log.info("slot.recovered", slot=slot.key)
        finally:
            self._free(slot)

    async def _drain(self) -> None:
        """Let what runs finish within the grace period, then hand it back."""
        log.info("dispatcher.draining", running=len(self._execution.running))
        await self._until_idle(self._settings.drain_grace_s)
        for attending in tuple(self._execution.running.values()):
            attending.interrupt(Reason.SHUTDOWN)
        await self._until_idle(LAST_WORDS_S)

    async def _release_idle(self) -> None:
        slots = [slot for instance in self._registry.instances.values() for slot in instance.slots]
        await asyncio.gather(*(s.held.release() for s in slots if s.held and not s.occupied))

    async def _until_idle(self, patience_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self._pulls or any(not ticket.out_of_hand for ticket in self._tickets):
                    self._changed.clear()
                    await self._changed.wait()
