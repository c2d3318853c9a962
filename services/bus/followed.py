"""A bucket followed and kept in memory: every key with what it says.

The one rule: what cannot be read is as if it were not there, and is left to whoever can read it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

from services.bus.buckets import Bucket
from services.bus.connection import Bus
from services.process import at_most

T = TypeVar("T")


class Followed(Generic[T]):
    """``read`` gives what the value of a key says, None for what it cannot read.

    ``name`` must be this process's own.
    """

    def __init__(self, bus: Bus, bucket: str, name: str, read: Callable[[str, bytes], T | None]) -> None:
        self._watch = Bucket(bus, bucket).watch(name)
        self._read = read
        self._revision = 0
        self._moved = asyncio.Event()
        self.entries: dict[str, T] = {}

    @property
    def known(self) -> asyncio.Event:
        """Set once what was there at the start is known."""
        return self._watch.follower.caught_up

    async def changes(self) -> AsyncIterator[list[str]]:
        """Keep up with the bucket, and give the keys that have changed each time; runs until cancelled."""
        async for batch in self._watch.entries():
            self._revision = max(self._revision, *(entry.revision for entry in batch))
            for entry in batch:
                value = None if entry.value is None else self._read(entry.key, entry.value)
                if value is None:
                    self.entries.pop(entry.key, None)
                else:
                    self.entries[entry.key] = value
            self._moved.set()
            yield [entry.key for entry in batch]

    async def reached(self, revision: int, patience_s: float) -> bool:
        """Wait until a write of one's own is in here; False where that takes too long."""
        async with at_most(patience_s):
            while self._revision < revision:
                self._moved.clear()
                await self._moved.wait()
        return self._revision >= revision
