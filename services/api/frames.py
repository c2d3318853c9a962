"""What a stream of events is made of, as bytes.

The one rule: an id stands only where a stream can be gone on with, and stands for all that came before it.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from services.api.answer import encode
from services.api.queries import Row

HELLO: Final = b"retry: 2000\n\n"
BYE: Final = b"retry: 1000\n\n"
HEARTBEAT: Final = b": heartbeat\n\n"


class Reason(StrEnum):
    """Why a client has to begin anew: what it asks for is gone, is not of this log, or it wants to."""

    RETENTION = "retention"
    UNKNOWN = "unknown"
    ASKED = "asked"


class Reset(Struct, frozen=True, tag_field="type", tag="reset"):
    """What the client was given does not lead here; tasks as they are follow.

    ``oldest``: from that sequence on no event is gone.
    """

    sequence: int
    oldest: int
    reason: Reason


class Snapshot(Struct, frozen=True, tag_field="type", tag="snapshot"):
    """All tasks that had not ended were shown, or the newest of them where not ``complete``."""

    sequence: int
    tasks: int
    complete: bool


def event(row: Row) -> bytes:
    """Spell a row of ``events``."""
    sequence, _, kind, wire, *_ = row
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (sequence, kind.encode(), wire)


def progress(wire: bytes) -> bytes:
    return b"event: task.progress\ndata: %b\n\n" % wire


def reset(told: Reset) -> bytes:
    """Spell the head of a snapshot.

    Who is cut off before the end of it has to ask for it again: by the id that it had, which is too old
    still, or by 0 where that id may come to mean something else.
    """
    head = b"id: 0\n" if told.reason is Reason.UNKNOWN else b""
    return b"%bevent: reset\ndata: %b\n\n" % (head, encode(told))


def task(document: bytes) -> bytes:
    return b"event: task.snapshot\ndata: %b\n\n" % document


def snapshot(told: Snapshot) -> bytes:
    """Spell the end of a snapshot, from where the stream can be gone on with."""
    return b"id: %d\nevent: snapshot\ndata: %b\n\n" % (told.sequence, encode(told))
