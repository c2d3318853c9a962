"""What the tables hold of a task and of an event.

The one rule: a row is worked out from the task and its address alone, so that whoever folds the same events
writes the same rows.
"""

from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from schemas import envelope, views, work
from schemas.commands import due
from schemas.events import TOKENS, Recorded
from schemas.requests import AnySubmission
from schemas.subjects import Address
from schemas.task import Task

Row = tuple[object, ...]

encode: Final = msgspec.json.Encoder().encode
decode_state: Final = msgspec.json.Decoder(Task).decode
_TYPES: Final = {kind: f"task.{token}" for kind, token in TOKENS.items()}


class Known(Struct):
    """A task as its row has it; ``number`` is the sequence of its first event."""

    number: int
    task: Task
    address: Address


def of_event(recorded: Recorded, known: Known) -> Row:
    """Give the row of an event; ``known`` as it left the task."""
    task = known.task
    return (
        recorded.sequence,
        known.number,
        _TYPES[type(recorded.event)],  # type: ignore[index]  # what could not be read has no row
        str(task.status),  # SQLite takes three times as long over anything but plain text
        _backend(task),
        task.error.code if task.error else None,
        views.wire_event(recorded),
    )


def of_task(known: Known) -> Row:
    task, address = known.task, known.address
    made = task.submission
    deadline = due(task)
    shown = views.document(task, address)
    return (
        known.number,
        task.task_id,
        shown.kind,
        str(task.status),
        shown.tenant,
        address.prefix,
        made.fingerprint if made else "",
        time(deadline[1]) if deadline else None,
        task.sequence,
        address.lane.model,
        shown.submitted_at,
        shown.priority,
        shown.user,
        work.units(made) if made else 0.0,
        shown.origin,
        shown.batch,
        _backend(task),
        task.error.code if task.error else None,
        shown.finished_at,
        encode(shown),
        None if task.final else encode(task),
    )


def tenant(made: AnySubmission | None) -> str:
    return made.tenant if made else "default"


def time(at: datetime | None) -> str | None:
    return envelope.timestamp(at) if at else None


def _backend(task: Task) -> str | None:
    return task.attempts[-1].backend if task.attempts else None
