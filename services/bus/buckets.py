"""Key-value buckets: read, compare and set, watch.

The one rule: a write names the revision it replaces, but for ``put``, where the last writer wins.
"""

from collections.abc import AsyncIterator
from typing import Final

from msgspec import Struct

from schemas.envelope import EXPECTED_SEQUENCE, TTL
from services.bus.connection import ApiError, Bus
from services.bus.follow import Follower
from services.bus.stored import Stored, from_direct_get
from services.bus.tasklog import WRONG_LAST_SEQUENCE

_OPERATION: Final = "KV-Operation"


class Entry(Struct, frozen=True):
    """``value`` None: there is no such key, or it was deleted at ``revision``."""

    key: str
    value: bytes | None
    revision: int


class Bucket:
    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self._name = name
        self._prefix = f"$KV.{name}."

    async def get(self, key: str) -> Entry:
        messages = await self._bus.gather(f"$JS.API.DIRECT.GET.KV_{self._name}", self._last(key))
        if not messages:
            return Entry(key, None, 0)
        return _entry(self._prefix, from_direct_get(messages[0]))

    async def all(self) -> list[Entry]:
        """Read every key; for small buckets, at most 1,024 keys."""
        messages = await self._bus.gather(f"$JS.API.DIRECT.GET.KV_{self._name}", self._last(">"))
        return [_entry(self._prefix, from_direct_get(message)) for message in messages]

    def _last(self, key: str) -> bytes:
        return b'{"multi_last":["%s%s"]}' % (self._prefix.encode(), key.encode())

    async def replace(self, key: str, value: bytes, revision: int) -> int | None:
        """Write if the key is still at ``revision`` (0: not there yet); None if it is not."""
        return await self._write(key, value, revision, {})

    async def delete(self, key: str, revision: int, *, marked_s: int | None = None) -> int | None:
        """Leave a marker that there is no such key any more, if it is still at ``revision``.

        ``marked_s``: for so long, after which nothing is left of the key; the stream must allow it.
        """
        if marked_s is None:
            return await self._write(key, b"", revision, {_OPERATION: "DEL"})
        purge = {_OPERATION: "PURGE", "Nats-Rollup": "sub", TTL: f"{marked_s}s"}
        return await self._write(key, b"", revision, purge)

    async def _write(self, key: str, value: bytes, revision: int, headers: dict[str, str]) -> int | None:
        guarded = {EXPECTED_SEQUENCE: str(revision), **headers}
        try:
            return await self._bus.publish(f"{self._prefix}{key}", value, guarded)
        except ApiError as error:
            if error.code != WRONG_LAST_SEQUENCE:
                raise
            return None

    async def put(self, key: str, value: bytes) -> None:
        """Write whatever stands there: for what may be lost without harm."""
        await self._bus.publish(f"{self._prefix}{key}", value, {})

    def watch(self, name: str) -> "Watch":
        """Follow every key: what is there now, then each change; ``name`` must be this process's own."""
        return Watch(self._bus, self._name, name)


class Watch:
    """Gives entries as they change. ``follower.caught_up`` says when the first state is complete."""

    def __init__(self, bus: Bus, bucket: str, name: str) -> None:
        self._prefix = f"$KV.{bucket}."
        self.follower = Follower(bus, f"KV_{bucket}", f"{self._prefix}>", name)

    async def entries(self) -> AsyncIterator[list[Entry]]:
        async for batch in self.follower.batches():
            yield [_entry(self._prefix, stored) for stored in batch]


def _entry(prefix: str, stored: Stored) -> Entry:
    value = None if _OPERATION in stored.headers else stored.body
    return Entry(stored.subject.removeprefix(prefix), value, stored.sequence)
