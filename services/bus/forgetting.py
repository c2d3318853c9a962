"""Deleting the messages of an erased task from the log, so that their bytes are overwritten.

The one rule: the erased event stays, and what came first goes first, so that at any moment the rest folds
to the erased task; doing it again deletes what is left.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from schemas.events import TOKENS, TaskErased
from schemas.subjects import NANOSECOND, TASKS, Address, parse_subject, schedule_subject
from services.bus.connection import ApiError, Bus, Msg, status
from services.bus.stored import Stored, from_consumer, from_direct_get
from services.bus.streams import CONSUMER_EXISTS
from services.process import at_most

_KEEPS: Final = TOKENS[TaskErased]
_NO_MESSAGE: Final = frozenset({10037, 10043, 10057})
_CONSUMER: Final = "erasures"
_EVENTS: Final = f"task.*.*.*.*.*.{_KEEPS}"
_AT_ONCE: Final = 64
_ACK_WAIT_S: Final = 60
_PATIENCE_S: Final = 2.0


async def forget(bus: Bus, address: Address) -> int:
    """Delete all of a task's messages but its erased event; how many those were."""
    count = 0
    while doomed := await _messages(bus, address):
        for sequence in doomed:
            await _delete(bus, sequence)
        count += len(doomed)
    return count


async def _messages(bus: Bus, address: Address) -> list[int]:
    """Give the sequences of what there is still, in order: the last of each event, and a schedule."""
    wanted = [address.guard, schedule_subject(address.task_id)]
    body = msgspec.json.encode({"multi_last": wanted})
    messages = await bus.gather(f"$JS.API.DIRECT.GET.{TASKS}", body)
    stored = [from_direct_get(message) for message in messages]
    return sorted(one.sequence for one in stored if not one.subject.endswith(f".{_KEEPS}"))


async def _delete(bus: Bus, sequence: int) -> None:
    try:
        await bus.api(f"STREAM.MSG.DELETE.{TASKS}", {"seq": sequence})
    except ApiError as error:
        if error.code not in _NO_MESSAGE:
            raise


class Erasures:
    """The erased events that nobody has seen through to their end yet, whoever appended them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._made = False

    async def pending(self) -> AsyncIterator[tuple[Address, Stored]]:
        """Give each; hand it to ``done`` once nothing is left, or it comes again after a minute."""
        if not self._made:
            await self._make()
        for message in await self._pull():
            stored = from_consumer(message)
            yield parse_subject(stored.subject)[0], stored

    async def _pull(self) -> list[Msg]:
        """Pull what there is. Over an inbox of its own, since such messages keep their own subject."""
        messages: list[Msg] = []
        ended = asyncio.Event()

        def receive(message: Msg) -> None:
            if status(message):
                ended.set()
            else:
                messages.append(message)

        inbox = self._bus.new_inbox()
        subscription = await self._bus.subscribe(inbox, receive)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{TASKS}.{_CONSUMER}"
        body = msgspec.json.encode({"batch": _AT_ONCE, "no_wait": True})
        await self._bus.client().publish(subject, body, reply=inbox)
        async with at_most(_PATIENCE_S):
            await ended.wait()
        await subscription.unsubscribe()
        return messages

    async def done(self, stored: Stored) -> None:
        await self._bus.send(stored.reply)

    async def _make(self) -> None:
        config: dict[str, Any] = {  # Any: JSON
            "name": _CONSUMER,
            "durable_name": _CONSUMER,
            "filter_subject": _EVENTS,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": _ACK_WAIT_S * NANOSECOND,
            "max_deliver": -1,
        }
        body = {"stream_name": TASKS, "config": config, "action": "create"}
        try:
            await self._bus.api(f"CONSUMER.CREATE.{TASKS}.{_CONSUMER}.{_EVENTS}", body)
        except ApiError as error:
            if error.code not in CONSUMER_EXISTS:
                raise
        self._made = True
