"""Following a stream for whoever reads all of it and wants nothing of its headers: the projector.

The one rule: what arrives is the same as by ``Follower``, but that headers are left unread. The client
takes 15 µs to make a message of what was received; here its parts are cut out of that, many at a time.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from nats.aio.subscription import Subscription
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from services.bus.client import Client
from services.bus.connection import Bus
from services.bus.follow import Follower
from services.bus.stored import Stored

Cut = tuple[bytes, bytes, bytes]
"""Subject, reply subject, body."""
_HEAD: Final = b"HMSG "
_PARTS: Final = 5
_PLACE: Final = 5
"""Of the sequence among the tokens of a reply subject."""
_MILLISECOND: Final = 1_000_000
_NONE: Final[dict[str, str]] = {}


class _Parser(Parser):
    """Cuts out what is for a sink; all else is the client's, as ever."""

    nc: "_Client"

    async def parse(self, data: bytes = b"") -> None:
        self.buf.extend(data)
        if self.state == AWAITING_CONTROL_LINE and self.nc.sinks:
            self._cut()
            if self._begun():
                return
        await super().parse()

    def _cut(self) -> None:
        received, at = bytes(self.buf), 0
        found: dict[bytes, list[Cut]] = {}
        while received.startswith(_HEAD, at):
            end = received.find(b"\r\n", at)
            parts = received[at + len(_HEAD) : end].split(b" ") if end > 0 else []
            if len(parts) != _PARTS or parts[1] not in self.nc.sinks:
                break
            subject, sid, reply, head, total = parts
            begin = end + 2
            after = begin + int(total)
            if len(received) < after + 2:
                break
            found.setdefault(sid, []).append((subject, reply, received[begin + int(head) : after]))
            at = after + 2
        del self.buf[:at]
        for sid, cuts in found.items():
            self.nc.sinks[sid](cuts)

    def _begun(self) -> bool:
        """Whether a message for a sink has begun to arrive, which is best left until it is whole."""
        line, whole, _ = bytes(self.buf[:4096]).partition(b"\r\n")
        parts = line.split(b" ")
        return bool(whole) and len(parts) == _PARTS + 1 and parts[2] in self.nc.sinks


class _Client(Client):
    def __init__(self) -> None:
        super().__init__()
        self.sinks: dict[bytes, Callable[[list[Cut]], None]] = {}
        self._ps = _Parser(self)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self.sinks.pop(b"%d" % sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        sink = self.sinks.get(b"%d" % sid)
        if sink is not None and reply:
            sink([(subject, reply, data)])
        else:
            await super()._process_msg(sid, subject, reply, data, headers)


class BulkBus(Bus):
    """A connection for reading in bulk."""

    _client_of = _Client

    def divert(self, subscription: Subscription, sink: Callable[[list[Cut]], None]) -> None:
        """Give a subscription's messages to ``sink``; what has no reply subject still goes its way."""
        client = self.client()
        assert isinstance(client, _Client)  # noqa: S101 - made so above
        client.sinks[b"%d" % subscription._id] = sink  # noqa: SLF001 - there is no public word for it


class BulkFollower(Follower):
    """Times are cut to the millisecond, in which everything is shown."""

    _bus: BulkBus

    async def _subscribe(self, inbox: str) -> Subscription:
        subscription = await super()._subscribe(inbox)
        self._bus.divert(subscription, self._take)
        return subscription

    def _take(self, cuts: list[Cut]) -> None:
        self._asked -= len(cuts)
        self._buffer += cuts
        self._arrived.set()

    def _stored(self, message: Any) -> Stored:  # Any: a Cut, which is what is taken
        subject, reply, body = message
        tokens = reply.split(b".")
        place = _PLACE if len(tokens) == _PLACE + 4 else _PLACE + 2  # as ``from_consumer`` has it
        sequence, consumer_sequence, nanoseconds, pending = tokens[place : place + 4]
        return Stored(
            subject.decode(),
            body,
            _NONE,
            int(sequence),
            datetime.fromtimestamp(int(nanoseconds) // _MILLISECOND / 1000, UTC),
            "",
            0,
            int(consumer_sequence),
            int(pending),
        )
