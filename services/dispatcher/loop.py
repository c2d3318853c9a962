"""The loop: what is free is matched with what waits, leased, and put to work.

The one rule: no ticket is pulled without a slot that can run it now.
"""

import asyncio
from collections.abc import Coroutine
from typing import Final

import structlog
from msgspec import Struct

from schemas.errors import UndecodableError
from schemas.lease import Claim
from schemas.subjects import SUBMITTED, WAKE_CANCELLED, WAKE_EXPIRED, WAKE_SUBMITTED, Lane, parse_subject
from services.bus.connection import Bus, Msg
from services.bus.tickets import Ticket
from services.dispatcher.attempt import Reason
from services.dispatcher.control import Control
from services.dispatcher.desk import Desk, Outcome
from services.dispatcher.draining import drain_lost
from services.dispatcher.execution import Execution
from services.dispatcher.fleet import Fleet
from services.dispatcher.instances import Instance, Seat, Slot
from services.dispatcher.registry import Registry
from services.dispatcher.seating import Seating
from services.dispatcher.waiting import Waiting
from services.leases import Leases
from services.process import at_most
from services.scheduling.situation import Choice
from services.settings import Settings

log = structlog.get_logger()

_PULLED_S: Final = 0.05
LAST_WORDS_S: Final = 5.0


class Parts(Struct, frozen=True, kw_only=True):
    """What a dispatcher is made of, wired together."""

    bus: Bus
    leases: Leases
    registry: Registry
    fleet: Fleet
    control: Control
    desk: Desk
    execution: Execution
    settings: Settings


class Loop:
    """One dispatcher's steward of its share of the slots. ``changed``: another match may be possible."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._bus = parts.bus
        self._leases = parts.leases
        self._registry = parts.registry
        self._control = parts.control
        self._desk = parts.desk
        self._execution = parts.execution
        self._settings = parts.settings
        self._seating = Seating(parts.leases, parts.registry, parts.settings)
        self._stopping = False
        self._pulls = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup
        self._changed = parts.leases.changed
        self._waiting = Waiting(parts.bus, parts.control, parts.leases, self._seating, parts.settings)
        self._bus.on_reconnect(self._changed.set)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop``, then finish or hand back what is under way."""
        async with asyncio.TaskGroup() as self._group:
            # First, so that what is stored from now on is heard of, and what was before is in the depths.
            for subject in (WAKE_SUBMITTED, WAKE_CANCELLED, WAKE_EXPIRED):
                await self._bus.subscribe(subject, self._wake)
            for job in (
                self._leases.follow(),
                self._leases.keep(),
                self._registry.follow(),
                self._parts.fleet.follow(),
                self._parts.fleet.keep(),
                self._control.follow(),
                self._waiting.keep(),
                self._begin(),
            ):
                self._spawn(job)
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

    async def _begin(self) -> None:
        """Match once all is known that has to be: of an empty bucket nobody is told."""
        await asyncio.gather(self._leases.known.wait(), self._control.known.wait())
        self._changed.set()

    async def _on_stop(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping = True
        self._changed.set()

    def _wake(self, message: Msg) -> None:
        """Hear of an event: a ticket to look for, or the end of a task that may be running here."""
        try:
            address, event = parse_subject(message.subject)
        except UndecodableError:
            return
        if event == SUBMITTED:
            self._waiting.hear(address.lane)
        elif attending := self._execution.running.get(address.task_id):
            attending.interrupt(Reason.OVER)

    def _assign(self) -> None:
        """Put every slot to work that has something to do, and give up the leases of the others."""
        known = self._leases.known.is_set() and self._control.known.is_set()
        if self._stopping or not known or not self._bus.connected:
            return
        if going := self._waiting.with_room():
            self._spawn(self._waiting.return_all(going))
        # What waits is many, and a busy fleet is woken all the time: it is looked at where one could begin.
        while self._seating.any_free and (choice := self._waiting.choose()):
            seat = self._seating.take(choice, self._waiting.served)
            self._spawn(self._serve(seat, choice, self._waiting.get(choice, seat)))
        for instance in self._registry.instances.values():
            for slot in instance.slots:
                self._tidy(instance, slot)

    def _tidy(self, instance: Instance, slot: Slot) -> None:
        """Release a lease that is not needed, and recover a slot that was lost by another dispatcher."""
        if not slot.idle:
            return
        if slot.held is not None:
            held, slot.held = slot.held, None
            self._spawn(held.release())
        elif self._leases.claim(slot.key) is Claim.STALE and instance.adapter is not None:
            self._spawn(self._recover(Seat(instance, slot)))

    async def _serve(
        self, seat: Seat, choice: Choice, getting: Coroutine[None, None, Ticket | None]
    ) -> None:
        """Get the ticket and run it; afterwards the slot is matched again."""
        ran_s = 0.0
        try:
            if ticket := await self._got(getting):
                ran_s = await self._run(ticket, seat)
        finally:
            self._waiting.settle(choice, ran_s)
            await self._seating.leave(seat)

    async def _got(self, getting: Coroutine[None, None, Ticket | None]) -> Ticket | None:
        self._pulls += 1
        try:
            ticket = await getting
        finally:
            self._pulls -= 1
        if ticket is not None and self._stopping:
            await ticket.give_back()
            return None
        return ticket

    async def _run(self, ticket: Ticket, seat: Seat) -> float:
        """Run a ticket where it belongs, or put it off; the seconds that its slot was in use for it."""
        began = _now()
        self._waiting.tickets.add(ticket)
        try:
            ran = await self._placed_and_run(ticket, seat)
        finally:
            self._waiting.done_with(ticket)
        return _now() - began if ran else 0.0

    async def _placed_and_run(self, ticket: Ticket, seat: Seat) -> bool:
        lane, submission = ticket.address.lane, ticket.submission
        if submission:
            self._waiting.pulled(ticket, submission)
            if not await self._seating.better(submission, seat, lane):
                await self._waiting.park(ticket, submission)
                return False
        while (outcome := await self._desk.run(ticket, seat)) is Outcome.ELSEWHERE:
            if not await self._moved(seat, lane):
                await self._waiting.give_back(ticket)
                return False
        if submission and outcome is Outcome.CAPPED:
            await self._waiting.cap(ticket, submission)
            return False
        self._waiting.ran(ticket)
        return True

    async def _moved(self, seat: Seat, lane: Lane) -> bool:
        """Move to another backend; a slot that is merely being pulled for is free again in a moment."""
        if await self._seating.elsewhere(seat, lane):
            return True
        if not self._pulls:
            return False
        await asyncio.sleep(_PULLED_S)
        return await self._seating.elsewhere(seat, lane)

    async def _recover(self, seat: Seat) -> None:
        """Take over a slot whose dispatcher is lost, and keep it from work until its GPU is idle."""
        slot = seat.slot
        sighting = self._leases.sighting(slot.key)
        try:
            if sighting is not None:
                slot.held = await self._leases.take(slot.key, sighting.lease)
            if sighting is not None and slot.held is not None:
                log.info("slot.recovering", slot=slot.key, lost_by=sighting.lease.holder)
                if not await self._desk.go_on(sighting.lease, seat):
                    await drain_lost(seat.instance, slot.key, sighting.lease, self._settings)
                log.info("slot.recovered", slot=slot.key)
        finally:
            await self._seating.leave(seat)

    async def _drain(self) -> None:
        """Let what runs finish within the grace period, then hand it back."""
        log.info("dispatcher.draining", running=len(self._execution.running))
        await self._waiting.empty()
        await self._until_idle(self._settings.drain_grace_s)
        for attending in tuple(self._execution.running.values()):
            attending.shut_down()
        await self._until_idle(LAST_WORDS_S)
        await self._waiting.empty()  # of what was pulled before it stopped, and parked since

    async def _release_idle(self) -> None:
        slots = [slot for instance in self._registry.instances.values() for slot in instance.slots]
        await asyncio.gather(*(s.held.release() for s in slots if s.held and s.idle))

    async def _until_idle(self, patience_s: float) -> None:
        async with at_most(patience_s):
            while self._at_work():
                self._changed.clear()
                await self._changed.wait()

    def _at_work(self) -> bool:
        running = self._execution.running.values()
        in_hand = any(not ticket.out_of_hand for ticket in self._waiting.tickets)
        return bool(self._pulls) or in_hand or any(not attending.interrupted for attending in running)


def _now() -> float:
    return asyncio.get_running_loop().time()
