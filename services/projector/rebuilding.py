"""Making the read model anew: with nothing to serve meanwhile, or beside the one that is being served.

The one rule: the pointer is switched once the new file has everything that the old one has, never earlier.
"""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import structlog

from schemas import subjects
from schemas.errors import UnavailableError
from schemas.rebuilds import Phase
from services import clock
from services.bus.bulk import BulkBus, BulkFollower
from services.bus.connection import ApiError
from services.bus.streams import StreamInfo, stream_info
from services.process import background
from services.projector import indexer
from services.projector.build import Order
from services.projector.builder import BuildError, build_file
from services.projector.checksum import checksum
from services.projector.copies import restored
from services.projector.looking import Look, in_thread
from services.projector.rebuilds import Rebuilds
from services.projector.store import SNAPSHOT, Store, opened, put_in_place

log = structlog.get_logger()

RETRY_S = 0.5


class Rebuilder:
    """``url``: where the server is for a process of its own."""

    def __init__(self, bus: BulkBus, url: str, path: Path, name: str, rebuilds: Rebuilds) -> None:
        self._bus = bus
        self._url = url
        self._path = path
        self._name = name
        self._rebuilds = rebuilds
        self._comparing: asyncio.Queue[tuple[sqlite3.Connection, sqlite3.Connection, int]] = asyncio.Queue()

    async def identity(self) -> StreamInfo:
        """Ask which stream there is, for as long as it takes."""
        while True:
            try:
                return await stream_info(self._bus, subjects.TASKS)
            except (UnavailableError, ApiError) as error:
                log.debug("stream.waiting", error=str(error))
                await asyncio.sleep(RETRY_S)

    def follower(self, start: int) -> BulkFollower:
        name = f"projector-{self._name}"
        return BulkFollower(self._bus, subjects.TASKS, subjects.TASK_EVENTS, name, start)

    async def make(self) -> None:
        """Put a read model in place where there is none that could be served."""
        self._rebuilds.begin()
        while True:
            stream = await self.identity()
            log.info("readmodel.rebuilding", up_to=stream.last)
            built = await restored(self._path, stream.created, stream.first)
            try:
                built = built or await self._build(stream)
                break
            except BuildError as error:
                log.warning("readmodel.build_failed", reason=str(error))
                await asyncio.sleep(RETRY_S)
        async with opened(built) as store:
            await self._catch_up(store)
            await store.seal()
            checkpoint = await store.checkpoint()
        put_in_place(built, self._path)
        log.info("readmodel.rebuilt", sequence=checkpoint.sequence)
        await self._rebuilds.end(Phase.DONE, sequence=checkpoint.sequence)

    async def beside(self, old: Store) -> Path | None:
        """Build a file with all that the old one has; None where that failed, which is told."""
        stream = await self.identity()
        log.info("readmodel.rebuilding", up_to=stream.last, beside=str(old.path.resolve()))
        try:
            built = await self._build(stream)
            self._rebuilds.come_to(Phase.CATCHING_UP)
            async with opened(built) as store:
                await self._catch_up(store)
                self._rebuilds.come_to(Phase.INDEXING)
                await indexer.fill(store)
        except (BuildError, sqlite3.Error, OSError) as error:
            log.warning("readmodel.build_failed", reason=str(error))
            await self._rebuilds.end(Phase.FAILED, error=str(error))
            return None
        return built

    async def switch(self, old: Store, built: Path) -> None:
        """Put the new file in place, once both are folded to the same sequence and nobody folds."""
        async with opened(built) as store:
            sequence = max((await old.checkpoint()).sequence, (await store.checkpoint()).sequence)
            await self._advance(old, sequence)
            await self._advance(store, sequence)
            # What is compared stays as it is now, however the folding goes on.
            pinned = [_pinned(file) for file in (old.path, built)]
        put_in_place(built, self._path)
        log.info("readmodel.rebuilt", sequence=sequence)
        self._rebuilds.come_to(Phase.COMPARING, sequence=sequence)
        self._comparing.put_nowait((pinned[0], pinned[1], sequence))

    async def compare(self) -> None:
        """Say of each pair of files whether they are equal; runs until cancelled."""
        while True:
            before, after, sequence = await self._comparing.get()
            try:
                sums = [await in_thread(database, _summed) for database in (before, after)]
            except sqlite3.Error as error:
                await self._rebuilds.end(Phase.FAILED, error=f"cannot be compared: {error}")
                continue
            finally:
                for database in (before, after):
                    database.close()
            if sums[0] != sums[1]:
                log.warning("readmodel.differs", sequence=sequence, before=sums[0], after=sums[1])
            await self._rebuilds.end(Phase.DONE, before=sums[0], after=sums[1])

    async def _build(self, stream: StreamInfo) -> Path:
        built = self._path.with_name(f"{self._path.name}.{clock.new_name()[:8]}")
        order = Order(
            url=self._url,
            name=f"builder-{self._name}",
            path=str(built),
            stream=stream.created,
            first=stream.first,
            older=(str(self._path), str(self._path) + SNAPSHOT),
        )
        await build_file(order, stream.last - stream.first + 1, self._rebuilds.built)
        return built

    async def _catch_up(self, store: Store) -> None:
        """Fold until there is nothing more."""
        follower = self.follower((await store.checkpoint()).sequence + 1)

        async def fold() -> None:
            async for batch in follower.batches():
                await store.apply(batch)

        async with background(fold()):
            await follower.caught_up.wait()

    async def _advance(self, store: Store, up_to: int) -> None:
        """Fold up to exactly that event."""
        checkpoint = await store.checkpoint()
        if checkpoint.sequence >= up_to:
            return
        batches = self.follower(checkpoint.sequence + 1).batches()
        async with contextlib.aclosing(batches):
            async for batch in batches:
                if wanted := [stored for stored in batch if stored.sequence <= up_to]:
                    await store.apply(wanted)
                if batch[-1].sequence >= up_to:
                    return


def _pinned(file: Path) -> sqlite3.Connection:
    """Open a file as it is now, whatever is written to it, or becomes of its name."""
    uri = f"{file.resolve().as_uri()}?mode=ro"
    database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    database.execute("BEGIN")
    database.execute("SELECT 1 FROM checkpoint").fetchall()
    return database


def _summed(seen: Look) -> str:
    return checksum(seen.database)
