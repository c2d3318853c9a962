"""What waits for a GPU: lanes on the board and parked tickets, whose turn it is, and how its ticket is got.

The one rule: a choice is charged when it is made, and corrected when it is known what came of it.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable
from datetime import timedelta
from typing import Final

import structlog

from schemas.errors import UnavailableError
from schemas.requests import AnySubmission
from schemas.subjects import Lane
from schemas.work import units
from services import clock
from services.bus.connection import ApiError, Bus
from services.bus.tickets import Ticket
from services.dispatcher.board import Board
from services.dispatcher.capped import Capped
from services.dispatcher.control import Control
from services.dispatcher.depths import Depths
from services.dispatcher.instances import Seat, Slot
from services.dispatcher.parking import Parking
from services.dispatcher.seating import Seating
from services.leases import Leases
from services.scheduling.deciding import because_named
from services.scheduling.fairness import Turns
from services.scheduling.situation import Choice
from services.settings import Settings

log = structlog.get_logger()

_PAUSE: Final = timedelta(seconds=1)
_CLEARED_S: Final = 1.0
_LATE_S: Final = 0.25
"""A busy server has a ticket back later than it was told to, by less than this."""


class Waiting:
    """``tickets`` are those at work. ``leases.changed`` is set when something else may be chosen."""

    def __init__(
        self, bus: Bus, control: Control, leases: Leases, seating: Seating, settings: Settings
    ) -> None:
        self._control = control
        self._leases = leases
        self._seating = seating
        self._settings = settings
        self._changed = leases.changed
        self._turns = Turns(settings.priority, settings.ageing_s)
        self._board = Board()
        self._parking = Parking()
        self._capped = Capped()
        self._pauses: frozenset[str] = frozenset()
        self._depths = Depths(bus, self._board, self._in_hand, self._changed)
        self.tickets: set[Ticket] = set()

    async def keep(self) -> None:
        """Read anew how deep lanes are, and give back what was kept for too long; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._depths.keep())
            group.create_task(self._clear_out())

    async def empty(self) -> None:
        """Give back what is kept in hand."""
        for ticket in (*self._parking.clear(), *self._capped.clear()):
            await ticket.give_back()

    def with_room(self) -> list[Ticket]:
        """Take out the tickets whose tenants may run more by now, and those kept for too long."""
        return self._capped.leave(_now(), self._room)

    async def return_all(self, tickets: Iterable[Ticket]) -> None:
        """Give tickets back for whoever comes first, which may be us."""
        for ticket in tickets:
            await ticket.give_back()
            self.done_with(ticket)

    def hear(self, lane: Lane) -> None:
        """Take in that a ticket was stored there, or is back."""
        self._board.hint(lane, _now())
        self._changed.set()

    def choose(self) -> Choice | None:
        """Say what is served next and where, and charge it; None for nothing now."""
        now = _now()
        if self._pauses != self._control.pauses:
            self._pauses = frozenset(self._control.pauses)
            self._board.review()
            self._parking.review()
        self._turns.admit(self._board.changes(now, self._control.paused))
        self._turns.admit(self._parking.changes(self._control.paused))
        choice = self._seating.choose(self._turns, self._parking, now)
        if choice is not None:
            self._turns.serve(choice.lane, choice.seconds)
        return choice

    @property
    def served(self) -> int:
        """Count the choices so far."""
        return self._turns.count

    def settle(self, choice: Choice, ran_s: float) -> None:
        """Correct what was charged for a choice."""
        self._turns.settle(choice.lane, choice.seconds, ran_s)

    def get(self, choice: Choice, seat: Seat) -> Coroutine[None, None, Ticket | None]:
        """Take what was chosen out of what can be; give what leases the slot and gets its ticket."""
        if parked := self._parking.take(choice.lane):
            seat.decision = because_named(choice.decision)
            return self._unpark(parked, seat.slot)
        return self._pull(seat.slot, choice.lane, self._board.take(choice.lane, _now()))

    def pulled(self, ticket: Ticket, submission: AnySubmission) -> None:
        """Take in how much work a ticket is."""
        self._board.measured(ticket.address.lane, units(submission), _now())

    def done_with(self, ticket: Ticket) -> None:
        """Take in that a ticket is at work no more; of one that comes back the server will say nothing."""
        self.tickets.discard(ticket)
        if ticket.back_in is not None:
            loop, lane = asyncio.get_running_loop(), ticket.address.lane
            back_in_s = ticket.back_in.total_seconds()
            loop.call_later(back_in_s, self.hear, lane)
            loop.call_later(back_in_s + _LATE_S, self._look_again, lane)

    async def park(self, ticket: Ticket, submission: AnySubmission) -> None:
        """Keep a ticket until the backend that its task names has a slot for it."""
        if not self._parking.put(ticket, submission, _now(), clock.now()):
            await self.give_back(ticket)

    async def cap(self, ticket: Ticket, submission: AnySubmission) -> None:
        """Keep a ticket until its tenant has fewer tasks running than it may."""
        if not self._capped.put(ticket, submission.tenant, _now()):
            await self.give_back(ticket)

    async def give_back(self, ticket: Ticket) -> None:
        """Give back a ticket that may not run yet."""
        await ticket.give_back(_PAUSE)
        self._board.rest(ticket.address.lane, _now())

    def ran(self, ticket: Ticket) -> None:
        """Take in that a ticket was run."""
        self._board.ran(ticket.address.lane, _now())

    def _look_again(self, lane: Lane) -> None:
        self._board.suspect(lane, _now())
        self._changed.set()

    def _in_hand(self) -> Counter[Lane]:
        at_work = Counter(t.address.lane for t in self.tickets if not t.out_of_hand)
        return at_work + self._parking.lanes + self._capped.lanes

    def _room(self, tenant: str) -> int:
        return (self._settings.tenant_running_limit or 0) - self._leases.begun(tenant)

    async def _clear_out(self) -> None:
        while True:
            await asyncio.sleep(_CLEARED_S)
            gone = self._parking.leave(_now(), self._seating.gpus)
            await self.return_all((*self.with_room(), *gone))

    async def _pull(self, slot: Slot, lane: Lane, wait_s: float) -> Ticket | None:
        ticket = None
        try:
            ticket = await self._seating.pull(slot, lane, wait_s)
        except (UnavailableError, ApiError) as error:
            log.debug("pull.failed", lane=lane.name, error=str(error))
        finally:
            self._board.pulled(lane, _now(), found=ticket is not None)
            if wait_s and ticket is None:
                self._depths.doubted.set()
        return ticket

    async def _unpark(self, ticket: Ticket, slot: Slot) -> Ticket | None:
        if await self._seating.lease(slot):
            return ticket
        await self.return_all((ticket,))
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
