"""The headers around an event: CloudEvents 1.0 in binary mode, the guard, the trace.

The one rule: the body says what happened, the headers say which event it is and what it must follow.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

import msgspec

from schemas.events import TOKENS, TaskEvent
from schemas.ids import EventId, TaskId

EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
MSG_ID: Final = "Nats-Msg-Id"
SCHEDULE: Final = "Nats-Schedule"
SCHEDULE_TARGET: Final = "Nats-Schedule-Target"
SCHEDULE_NEXT: Final = "Nats-Schedule-Next"
SCHEDULER: Final = "Nats-Scheduler"
TTL: Final = "Nats-TTL"
EVENT_ID: Final = "ce-id"
EVENT_TYPE: Final = "ce-type"
TRACEPARENT: Final = "traceparent"

_encode: Final = msgspec.json.Encoder().encode
# What CloudEvents lets stand in a header as it is: printable ASCII save space, quote and percent.
_SAFE: Final = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


def event_type(event: type[TaskEvent]) -> str:
    return f"taskfold.task.{TOKENS[event]}.v1"


def attributes(
    event: TaskEvent,
    *,
    task_id: TaskId,
    event_id: EventId,
    source: str,
    at: datetime,
    traceparent: str | None = None,
) -> dict[str, str]:
    """Build the headers that name an event; its id is also what JetStream deduplicates by."""
    headers = {
        "ce-specversion": "1.0",
        EVENT_ID: event_id,
        EVENT_TYPE: event_type(type(event)),
        "ce-source": quote(source, safe=_SAFE),
        "ce-subject": task_id,
        "ce-time": timestamp(at),
        "ce-datacontenttype": "application/json",
        MSG_ID: event_id,
    }
    if traceparent:
        headers[TRACEPARENT] = traceparent
    return headers


def kept(keep: timedelta | None) -> dict[str, str]:
    """Build the header that ends a message after so long, to the second; none: when its stream does."""
    return {} if keep is None else {TTL: f"{max(1, int(keep.total_seconds()))}s"}


def guarded(expected: int, guard: str) -> dict[str, str]:
    """Build the headers that make an append fail unless the last event under ``guard`` is ``expected``."""
    return {EXPECTED_SEQUENCE: str(expected), EXPECTED_SUBJECT: guard}


def schedule(not_before: datetime, target: str) -> dict[str, str]:
    """Build the headers of a message that the server stores at ``target`` once the time has come.

    ``never`` keeps the stream's max_age from removing a schedule that is due during an outage.
    """
    return {
        SCHEDULE: f"@at {timestamp(not_before)}",
        SCHEDULE_TARGET: target,
        TTL: "never",
    }


def purge_schedule(subject: str) -> dict[str, str]:
    """Build the headers that remove a pending schedule in the same write as the event they ride on."""
    return {SCHEDULE_NEXT: "purge", SCHEDULER: subject}


def timestamp(at: datetime) -> str:
    """Spell an aware time as RFC 3339 in UTC and milliseconds: ``2026-11-24T09:00:00.000Z``."""
    # By msgspec, in an eighth of the time of isoformat; it leaves out a fraction that is nought.
    text = _encode(at if at.tzinfo is UTC else at.astimezone(UTC))[1:24]
    return f"{text.decode()}Z" if at.microsecond else f"{text[:19].decode()}.000Z"


def event_id(headers: Mapping[str, str] | None) -> EventId | None:
    found = headers.get(EVENT_ID) if headers else None
    return EventId(found) if found else None
