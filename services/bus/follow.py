"""Following a stream: every message in order, without gaps, across reconnects.

The one rule: a gap, a silence or a reconnect starts over behind the last message given out, with a new
consumer, since whatever the old one had under way is lost.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from schemas.errors import UnavailableError
from schemas.subjects import NANOSECOND
from services.bus.connection import ApiError, Bus, status
from services.bus.stored import Stored, from_consumer

log = structlog.get_logger()

BATCH: Final = 1000
_EXPIRES_S: Final = 5.0
_SILENCE_S: Final = 8.0
_IDLE_S: Final = 300
_RETRY_S: Final = 0.25
_PULL_ENDED: Final = "408"
_HEARTBEAT: Final = "100"


class Follower:
    """Follows ``subject`` from sequence ``start``; None: from the last message of each subject."""

    _pull = BATCH
    """How many messages are asked for at a time; twice as many are under way."""

    def __init__(self, bus: Bus, stream: str, subject: str, name: str, start: int | None = None) -> None:
        self._bus = bus
        self._stream = stream
        self._subject = subject
        self._name = name
        self._start = start
        self.generation = 0
        """Counts the consumers; what one gives out first is what there is at that time."""
        self._arrived = asyncio.Event()
        self._reset = False
        self._buffer: list[Any] = []  # Any: messages as ``_stored`` reads them
        self._asked = 0
        self._consumer_sequence = 0
        self.caught_up = asyncio.Event()
        """Set once everything that was stored before has been given out."""
        self.current = False
        """The same of what was stored before the last outage, or whatever else made it start over."""
        bus.on_reconnect(self._restart)

    def _restart(self) -> None:
        self._reset, self.current = True, False
        self._arrived.set()

    async def batches(self) -> AsyncGenerator[list[Stored], None]:
        """Give what arrives, as much as there is at a time; runs until it is cancelled."""
        while True:
            try:
                consumer = await self._open()
            except (UnavailableError, ApiError) as error:
                log.debug("follow.retry", stream=self._stream, error=str(error))
                await asyncio.sleep(_RETRY_S)
                continue
            try:
                inbox = self._bus.new_inbox()
                subscription = await self._subscribe(inbox)
                async for batch in self._read(consumer, inbox):
                    yield batch
                await subscription.unsubscribe()
            except UnavailableError:
                continue
            finally:
                await self._delete(consumer)

    async def _subscribe(self, inbox: str) -> Subscription:
        return await self._bus.subscribe(inbox, self._receive)

    def _stored(self, message: Any) -> Stored:  # Any: what is in the buffer
        return from_consumer(message)

    async def _open(self) -> str:
        self.generation += 1
        consumer = f"{self._name}-{self.generation}"
        where: dict[str, Any] = (
            {"deliver_policy": "last_per_subject"}
            if self._start is None
            else {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, self._start)}
        )
        config = {
            "name": consumer,
            "filter_subject": self._subject,
            "ack_policy": "none",
            "mem_storage": True,
            "inactive_threshold": _IDLE_S * NANOSECOND,
            **where,
        }
        self._reset, self._buffer, self._asked, self._consumer_sequence = False, [], 0, 0
        self.current = False
        info = await self._bus.api(
            f"CONSUMER.CREATE.{self._stream}.{consumer}.{self._subject}",
            {"stream_name": self._stream, "config": config, "action": "create"},
        )
        if info["num_pending"] == 0:
            self._caught_up()
        return consumer

    def _receive(self, message: Msg) -> None:
        if found := status(message):
            if found == _PULL_ENDED:
                self._asked -= int((message.headers or {}).get("Nats-Pending-Messages", 0))
            elif found != _HEARTBEAT:
                self._reset = True
        else:
            self._asked -= 1
            self._buffer.append(message)
        self._arrived.set()

    async def _read(self, consumer: str, inbox: str) -> AsyncIterator[list[Stored]]:
        while True:
            try:
                if self._asked <= self._pull:
                    await self._ask(consumer, inbox)
                if not self._arrived.is_set():
                    async with asyncio.timeout(_SILENCE_S):
                        await self._arrived.wait()
            except (TimeoutError, UnavailableError):
                return
            self._arrived.clear()
            messages, self._buffer = self._buffer, []
            batch = [self._stored(message) for message in messages]
            whole = self._without_gap(batch)
            if whole:
                yield whole
                if self._start is not None:
                    self._start = whole[-1].sequence + 1
                if whole[-1].pending == 0 and not self._reset:
                    self._caught_up()
            if self._reset or len(whole) < len(batch):
                return

    def _caught_up(self) -> None:
        self.current = True
        self.caught_up.set()

    def _without_gap(self, batch: list[Stored]) -> list[Stored]:
        for index, stored in enumerate(batch):
            self._consumer_sequence += 1
            if stored.consumer_sequence != self._consumer_sequence:
                return batch[:index]
        return batch

    async def _ask(self, consumer: str, inbox: str) -> None:
        request = {
            "batch": self._pull,
            "expires": int(_EXPIRES_S * NANOSECOND),
            "idle_heartbeat": int(_EXPIRES_S / 2 * NANOSECOND),
        }
        self._asked += self._pull
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}"
        await self._bus.client().publish(subject, msgspec.json.encode(request), reply=inbox)

    async def _delete(self, consumer: str) -> None:
        with contextlib.suppress(UnavailableError, ApiError):
            await self._bus.api(f"CONSUMER.DELETE.{self._stream}.{consumer}", timeout_s=1.0)
