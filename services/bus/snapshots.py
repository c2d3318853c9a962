"""Whole streams as archives: taken while the stream is written to, and made again from them.

The one rule: an archive is a stream of chunks, of which never more than one window is in memory.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import Struct

from schemas.errors import DisconnectedError, TaskfoldError
from schemas.subjects import NANOSECOND
from services.bus.connection import ApiError, Bus, Msg, accepted, status
from services.bus.streams import STREAM_NOT_FOUND
from services.process import at_most

CHUNK_BYTES: Final = 128 * 1024
_WINDOW_BYTES: Final = 4 * 1024 * 1024
_ANSWER_S: Final = 60.0
_SILENCE_S: Final = 30
_RESTORING_S: Final = 3600.0
_WHOLE: Final = "204"


class BrokenOffError(TaskfoldError):
    """The server ended a snapshot before it was whole; the text says of what, and why."""


class State(Struct, frozen=True):
    """What a stream held: ``bytes`` as stored, ``first_ts`` the time of its oldest message."""

    messages: int
    bytes: int
    last_seq: int
    first_ts: datetime


class _Restored(Struct):
    state: State


class _Limits(Struct, frozen=True):
    max_age: int = 0
    allow_msg_ttl: bool = False
    allow_msg_schedules: bool = False


class Description(Struct, frozen=True):
    """A stream as the server told of it at its snapshot, in its own words."""

    config: dict[str, Any]  # Any: JSON, here and below
    state: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.config.get("name"))

    def held(self) -> State:
        """Give what the snapshot holds; msgspec.ValidationError when its state is none."""
        return msgspec.convert(self.state, State)


class Snapshot(Struct, frozen=True):
    """``chunks`` can be read once, and ends with BrokenOffError or DisconnectedError unless whole."""

    description: Description
    chunks: AsyncIterator[bytes]


@contextlib.asynccontextmanager
async def snapshot(bus: Bus, stream: str) -> AsyncIterator[Snapshot]:
    """Begin the snapshot of a stream and of its consumers, as both are at this moment."""
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, arrived.put_nowait)
    since = bus.connected_since
    try:
        answer = await bus.api(
            f"STREAM.SNAPSHOT.{stream}",
            {
                "deliver_subject": inbox,
                "no_consumers": False,
                "chunk_size": CHUNK_BYTES,
                "window_size": _WINDOW_BYTES,
            },
            timeout_s=_ANSWER_S,
        )
        description = Description(answer["config"], answer["state"])
        yield Snapshot(description, _chunks(bus, stream, arrived, since))
    finally:
        await subscription.unsubscribe()


async def _chunks(bus: Bus, stream: str, arrived: asyncio.Queue[Msg], since: float) -> AsyncIterator[bytes]:
    """Give chunks, and ask for more once the last was taken: by that the server sends no faster."""
    while True:
        message = await _next(bus, stream, arrived, since)
        if not message.data:  # the end, which has no status when all of it was less than a chunk
            if (found := status(message)) in (None, _WHOLE):
                return
            reason = (message.headers or {}).get("Description", "")
            raise BrokenOffError(" ".join(f"{stream}: the server broke off, {found} {reason}".split()))
        yield message.data
        if message.reply:
            await bus.send(message.reply)


async def _next(bus: Bus, stream: str, arrived: asyncio.Queue[Msg], since: float) -> Msg:
    """Wait for the next chunk; one that was sent while the connection was away is lost."""
    for _ in range(_SILENCE_S):
        async with at_most(1):
            message = await arrived.get()
            if bus.connected_since == since:
                return message
        if bus.connected_since != since:
            raise DisconnectedError(f"the connection to NATS was lost in the middle of {stream}")
    raise BrokenOffError(f"{stream}: nothing came for {_SILENCE_S} s")


async def restore(bus: Bus, wanted: Description, chunks: Iterable[bytes]) -> State:
    """Make a stream from its archive, and give what it holds then.

    ApiError when it exists, or the archive is not sound: then there may be a part of it.
    """
    answer = await bus.api(f"STREAM.RESTORE.{wanted.name}", wanted, timeout_s=_ANSWER_S)
    subject: str = answer["deliver_subject"]
    for chunk in chunks:
        taken = await bus.request(subject, chunk, timeout_s=_ANSWER_S)
        if taken.data:
            accepted(taken)
    made = accepted(await bus.request(subject, timeout_s=_RESTORING_S))
    return msgspec.json.decode(made, type=_Restored).state


def difference(wanted: Description, found: State, now: datetime) -> str | None:
    """Say what a restored stream lacks; None: nothing but what has expired since.

    It may be ahead: a schedule that is overdue fires as soon as the log is there.
    """
    held = wanted.held()
    if found.last_seq < held.last_seq:
        return f"ends at sequence {found.last_seq}, not {held.last_seq}"
    if found.messages < held.messages and not _expires(wanted, held, now):
        return f"has {found.messages} messages, not {held.messages}"
    same = (found.messages, found.last_seq) == (held.messages, held.last_seq)
    if same and found.bytes != held.bytes:
        return f"has {found.bytes} bytes, not {held.bytes}"
    return None


def _expires(wanted: Description, held: State, now: datetime) -> bool:
    """Say whether some message may have come to the end of its life."""
    limits = msgspec.convert(wanted.config, _Limits)
    if limits.allow_msg_ttl and not limits.allow_msg_schedules:  # the log's own messages live as it does
        return True
    age = timedelta(microseconds=limits.max_age // (NANOSECOND // 1_000_000))
    return bool(age) and held.first_ts + age <= now


async def stream_names(bus: Bus) -> set[str]:
    """Name every stream there is."""
    names: set[str] = set()
    while True:
        page = await bus.api("STREAM.NAMES", {"offset": len(names)})
        names.update(page["streams"] or ())
        if len(names) >= page["total"] or not page["streams"]:
            return names


async def delete_stream(bus: Bus, name: str) -> None:
    """Delete a stream with all it holds; that there is none is as good."""
    try:
        await bus.api(f"STREAM.DELETE.{name}", timeout_s=_ANSWER_S)
    except ApiError as error:
        if error.code != STREAM_NOT_FOUND:
            raise
