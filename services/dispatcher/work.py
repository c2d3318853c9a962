"""A ticket in hand, and the only ways to change its task from here.

The one rule: every append names the sequence that the decision was made on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from schemas.errors import UnavailableError
from schemas.events import Recorded, TaskEvent
from schemas.task import Task, evolve
from services import clock
from services.artifacts import IncompleteError
from services.bus.tasklog import LostRaceError, TaskLog
from services.bus.tickets import Away, Ticket
from services.dispatcher.decider import Again, End
from services.dispatcher.instances import Instance, Seat, Slot

log = structlog.get_logger()
T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0


class Work:
    """The task as it is after the last event that is known, whose sequence is ``last``."""

    def __init__(self, tasklog: TaskLog, ticket: Ticket | Away, seat: Seat) -> None:
        self._log = tasklog
        self.ticket = ticket
        self.seat = seat
        self.task = Task(task_id=ticket.address.task_id)
        self.last = 0

    @property
    def slot(self) -> Slot:
        return self.seat.slot

    @property
    def instance(self) -> Instance:
        return self.seat.instance

    async def look(self) -> None:
        """Find out how the task is. A ticket that nobody can have acted on says it itself."""
        if isinstance(self.ticket, Ticket):
            recorded = self.ticket.recorded
            self.task = evolve(Task(task_id=self.ticket.address.task_id), recorded)
            self.last = recorded.sequence
        if not self.ticket.fresh or self.task.submission is None:
            await self.look_up()

    async def look_up(self) -> None:
        """Find out from the log how the task is."""
        address = self.ticket.address
        found = await self._log.lookup(address.task_id, address)
        self.task, self.last = found.task, found.last

    async def peek(self) -> Task:
        """Give the task as the log has it, and keep to what is known here."""
        address = self.ticket.address
        return (await self._log.lookup(address.task_id, address)).task

    async def append(self, event: TaskEvent) -> bool:
        """Append, for as long as it takes. False when another event came first, which is known then."""
        try:
            sequence = await self._log.append(
                self.ticket.address, event, expected=self.last, patience_s=None
            )
        except LostRaceError as lost:
            self.task, self.last = lost.found.task, lost.found.last
            return False
        recorded = Recorded(event, self.task.task_id, sequence, clock.now())
        self.task, self.last = evolve(self.task, recorded), sequence
        return True

    async def settle(self, step: End | Again) -> None:
        """Append, then end the ticket or give it back; in a lost race the winner has the say."""
        if not await self.append(step.event):
            await self.leave()
            return
        match step:
            case End():
                await self.ticket.ack()
            case Again(delay=delay):
                await self.ticket.give_back(delay)

    async def leave(self) -> None:
        """Take the hands off: end the ticket of a task that is over, leave any other to whoever has it."""
        if self.task.final:
            await self.ticket.ack()


async def persistently(act: Callable[[], Awaitable[T]]) -> T:
    """Repeat what must succeed for as long as NATS is away or full."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return await act()
        except (UnavailableError, IncompleteError) as error:
            log.warning("storage.waiting", error=str(error))
        await asyncio.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
