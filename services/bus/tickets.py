"""Tickets: pulled one at a time from a lane, kept alive, acked or given back.

The one rule: a ticket that arrives after its puller has left is given back at once.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import msgspec
from nats.aio.msg import Msg

from schemas.envelope import SCHEDULER
from schemas.errors import DisconnectedError
from schemas.events import Recorded, TaskSubmitted
from schemas.requests import AnySubmission
from schemas.subjects import NANOSECOND, TASKS, Address, Lane, parse_subject
from services.bus.connection import NO_RESPONDERS, Bus, status
from services.bus.stored import Stored, from_consumer, recorded
from services.bus.streams import ensure_lane

_GRACE_S: Final = 1.0


class Ticket:
    """The right to run one task, for as long as ``keep`` is called within every ack_wait."""

    def __init__(self, bus: Bus, stored: Stored) -> None:
        self._bus = bus
        self._stored = stored
        self.address: Address = parse_subject(stored.subject)[0]
        self.out_of_hand = False
        """Whether it was ended or given back."""
        self.back_in: timedelta | None = None
        """How long after it was given back it is there again."""

    @property
    def sequence(self) -> int:
        """Where it stands in the log: the earlier, the longer it has waited."""
        return self._stored.sequence

    @property
    def recorded(self) -> Recorded:
        """The event that the ticket is."""
        return recorded(self._stored)[1]

    @property
    def submission(self) -> AnySubmission | None:
        """The task as it was submitted; None where that cannot be read."""
        event = self.recorded.event
        return event.submission if isinstance(event, TaskSubmitted) else None

    @property
    def headers(self) -> Mapping[str, str]:
        return self._stored.headers

    @property
    def fresh(self) -> bool:
        """Whether nobody can have acted on it: delivered once, and not by a schedule, which may be late."""
        return self._stored.deliveries == 1 and SCHEDULER not in self.headers

    async def ack(self) -> None:
        """End the ticket. May be lost; then it is delivered again and acked again."""
        self.out_of_hand = True
        await self._answer(b"+ACK")

    def leave(self) -> None:
        """Take the hands off without a word: it is delivered again once its ack_wait is over."""
        self.out_of_hand = True

    async def keep(self) -> None:
        """Tell the server that the work goes on."""
        await self._answer(b"+WPI")

    async def give_back(self, delay: timedelta = timedelta(0)) -> None:
        """Let it be delivered again, after ``delay``; the delay survives a crash of the server."""
        self.out_of_hand, self.back_in = True, delay
        nanoseconds = int(delay.total_seconds() * NANOSECOND)
        body = b"-NAK " + msgspec.json.encode({"delay": nanoseconds}) if nanoseconds > 0 else b"-NAK"
        await self._answer(body)

    async def _answer(self, body: bytes) -> None:
        try:
            await self._bus.send(self._stored.reply, body)
        except DisconnectedError:
            return  # not kept, not acked: it is delivered again, and looked up


class Away:
    """The ticket of a task that is gone on with while the server has it; it comes back by itself."""

    out_of_hand = True
    fresh = False

    def __init__(self, address: Address) -> None:
        self.address = address

    async def ack(self) -> None:
        """Leave it: who gets it finds the task over."""

    async def keep(self) -> None:
        """Leave it: who gets it finds the task in good hands."""

    async def give_back(self, delay: timedelta = timedelta(0)) -> None:
        """Leave it: it comes when its own delay is over."""

    def leave(self) -> None:
        """Leave it."""


class Puller:
    """Pulls tickets, one at a time, over an inbox of its own; one for each slot that is served."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inbox = ""
        self._number = 0
        self._answer: asyncio.Future[Msg] | None = None
        self._returns: set[asyncio.Task[None]] = set()

    async def pull(self, lane: Lane, wait_s: float) -> Ticket | None:
        """Pull from a lane, waiting up to ``wait_s`` (0: not at all); None when there is no ticket.

        Creates the lane's consumer where a wake-up ran ahead of it. DisconnectedError while NATS is away.
        """
        await self._open()
        while True:
            message = await self._ask(lane, wait_s)
            found = status(message) if message else None
            if message is None or (found and found != NO_RESPONDERS):
                return None
            if not found:
                return Ticket(self._bus, from_consumer(message))
            await ensure_lane(self._bus, lane)

    async def _open(self) -> None:
        if not self._inbox:
            inbox = self._bus.new_inbox()
            await self._bus.subscribe(f"{inbox}.*", self._receive)
            self._inbox = inbox

    async def _ask(self, lane: Lane, wait_s: float) -> Msg | None:
        wait = {"expires": int(wait_s * NANOSECOND)} if wait_s else {"no_wait": True}
        self._number += 1
        answer = self._answer = asyncio.get_running_loop().create_future()
        try:
            await self._bus.client().publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{TASKS}.{lane.name}",
                msgspec.json.encode({"batch": 1, **wait}),
                reply=f"{self._inbox}.{self._number}",
            )
            async with asyncio.timeout(wait_s + _GRACE_S):
                return await asyncio.shield(answer)
        except TimeoutError:
            return None
        except asyncio.CancelledError:
            if answer.done() and not status(answer.result()):
                await self._return(answer.result())
            raise
        finally:
            self._answer = None

    def _receive(self, message: Msg) -> None:
        stale = status(message) and message.subject != f"{self._inbox}.{self._number}"
        if self._answer is not None and not self._answer.done() and not stale:
            self._answer.set_result(message)
        elif not status(message):
            returning = asyncio.create_task(self._return(message))
            self._returns.add(returning)
            returning.add_done_callback(self._returns.discard)

    async def _return(self, message: Msg) -> None:
        """Give back a ticket whose puller has left, or nobody sees it until its ack_wait ends."""
        await Ticket(self._bus, from_consumer(message)).give_back()
