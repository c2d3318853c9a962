"""A message as JetStream stored it, however it came: by direct get or from a consumer.

The one rule: its time is of milliseconds, as all times that are shown, so that what is read back from what
was shown is the same.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from msgspec import Struct
from nats.aio.msg import Msg

from schemas import envelope, events
from schemas.errors import UndecodableError
from schemas.events import Recorded, TaskEvent, Undecodable
from schemas.ids import TaskId
from schemas.subjects import Address, parse_subject

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Stored(Struct, frozen=True):
    """``deliveries`` and ``pending`` are the consumer's: of this message, and what waits behind it."""

    subject: str
    body: bytes
    headers: Mapping[str, str]
    sequence: int
    at: datetime
    reply: str = ""
    deliveries: int = 0
    consumer_sequence: int = 0
    pending: int = 0


def from_consumer(message: Msg) -> Stored:
    """Read ``$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<ns>.<pending>``."""
    tokens = message.reply.split(".")
    if len(tokens) > 9:  # noqa: PLR2004 - the newer form has a domain and an account before the stream
        tokens = tokens[:2] + tokens[4:]
    _, _, _, _, deliveries, sequence, consumer_sequence, nanoseconds, pending = tokens[:9]
    return Stored(
        subject=message.subject,
        body=message.data,
        headers=message.headers or {},
        sequence=int(sequence),
        at=_EPOCH + timedelta(milliseconds=int(nanoseconds) // 1_000_000),
        reply=message.reply,
        deliveries=int(deliveries),
        consumer_sequence=int(consumer_sequence),
        pending=int(pending),
    )


def from_direct_get(message: Msg) -> Stored:
    """Read the headers that a direct get adds: subject, sequence, time."""
    headers = message.headers or {}
    return Stored(
        subject=headers["Nats-Subject"],
        body=message.data,
        headers=headers,
        sequence=int(headers["Nats-Sequence"]),
        at=_parse_time(headers["Nats-Time-Stamp"]),
    )


def _parse_time(text: str) -> datetime:
    """Cut nanoseconds to milliseconds, as from_consumer does, so that both give the same instant."""
    seconds, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}.{rest[:3]:0<3}+00:00")


def recorded(stored: Stored) -> tuple[Address | None, Recorded]:
    """Decode an event. What cannot be read becomes Undecodable, which changes nothing."""
    try:
        address, token = parse_subject(stored.subject)
    except UndecodableError as error:
        unknown = Recorded(Undecodable(str(error)), TaskId(""), stored.sequence, stored.at)
        return None, unknown
    event: TaskEvent | Undecodable
    try:
        event = events.decode(token, stored.body)
    except UndecodableError as error:
        event = Undecodable(str(error))
    event_id = envelope.event_id(stored.headers)
    return address, Recorded(event, address.task_id, stored.sequence, stored.at, event_id, stored.body)
