"""Following the log into the read model, and making the read model anew when it cannot be trusted.

The one rule: SQLite is the truth about the position, the stream about everything else.
"""

import asyncio
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from schemas import events, subjects, views
from schemas.errors import UnavailableError
from schemas.ids import TaskId
from services.bus.bulk import BulkBus, BulkFollower
from services.bus.stored import Stored
from services.process import background
from services.projector.copies import keep_copied, tidy
from services.projector.indexer import Indexer
from services.projector.looking import sound
from services.projector.pruning import keep_pruned
from services.projector.rebuilding import Rebuilder
from services.projector.rebuilds import Rebuilds
from services.projector.store import Checkpoint, Store, UnusableError, opened

log = structlog.get_logger()

TICK_S: Final = 0.25
# The first event of a burst is folded at once; what comes within this time after it is one batch, which
# costs a commit and a hint instead of many.
BREATH_S: Final = 0.005


class Projector:
    """``url``: where the server is for a process of its own; ``called``: what people know it by.

    ``keep``: how long finished tasks stay; ``copy_every``: between copies of the file, zero for none.
    """

    def __init__(
        self,
        bus: BulkBus,
        url: str,
        path: Path,
        name: str,
        called: str,
        *,
        keep: timedelta,
        copy_every: timedelta,
    ) -> None:
        self._keep = keep
        self._copy_every = copy_every
        self._bus = bus
        self._path = path
        self._name = name
        self._rebuilds = Rebuilds(bus, called)
        self._rebuilder = Rebuilder(bus, url, path, name, self._rebuilds)
        self._suspect = asyncio.Event()
        self._reconnected = asyncio.Event()
        bus.on_reconnect(self._reconnected.set)

    async def run(self) -> None:
        """Project for ever; runs until it is cancelled."""
        await self._bus.subscribe(subjects.SUSPECT, self._on_suspect)
        await self._bus.subscribe(subjects.REBUILD, self._rebuilds.receive)
        tidy(self._path)
        async with background(self._rebuilds.run(), self._rebuilder.compare()):
            if not self._path.exists():
                await self._rebuilder.make()
            while True:
                await self._serve()

    async def _serve(self) -> None:
        """Follow into the file that is in place, until another is; make one where it cannot be used."""
        try:
            async with opened(self._path) as store:
                built = await self._follow(store)
                await self._rebuilder.switch(store, built)
        except* (UnusableError, sqlite3.Error) as errors:
            log.warning("readmodel.unusable", path=str(self._path), reason=_text(errors))
            await self._rebuilder.make()

    def _on_suspect(self, _: object) -> None:
        self._suspect.set()

    async def _follow(self, store: Store) -> Path:
        """Fold what comes, until a new file has been built beside this one, and give that.

        UnusableError once the file or the stream is not what it was.
        """
        checkpoint = await store.checkpoint()
        self._suspect.clear()
        self._reconnected.set()
        indexer = Indexer(store)
        async with background(
            self._fold(store, checkpoint),
            self._fold_progress(store),
            self._watch_stream(store),
            indexer.run(),
            self._watch_file(store, indexer),
            sound(self._path),
            keep_pruned(store.prune, self._keep),
            keep_copied(self._path, self._copy_every),
        ):
            while True:
                await self._rebuilds.asked.wait()
                self._rebuilds.asked.clear()
                if built := await self._rebuilder.beside(store):
                    return built

    async def _watch_file(self, store: Store, indexer: Indexer) -> None:
        while True:
            await store.verify_in_place()
            if self._suspect.is_set():
                self._suspect.clear()
                await store.check()
                indexer.suspect()
            await asyncio.sleep(TICK_S)

    async def _watch_stream(self, store: Store) -> None:
        """Compare the stream's identity with the checkpoint's, at the start and after each reconnect."""
        while True:
            await self._reconnected.wait()
            self._reconnected.clear()
            stream, checkpoint = await self._rebuilder.identity(), await store.checkpoint()
            if stream.created != checkpoint.stream or stream.last < checkpoint.sequence:
                raise UnusableError("was folded from another stream")

    async def _fold(self, store: Store, checkpoint: Checkpoint) -> None:
        follower = self._rebuilder.follower(checkpoint.sequence + 1)
        async for batch in follower.batches():
            if ignored := await store.apply(batch):
                log.warning("events.ignored", count=ignored, up_to=batch[-1].sequence)
            await self._announce()
            await asyncio.sleep(BREATH_S)

    async def _fold_progress(self, store: Store) -> None:
        follower = BulkFollower(self._bus, subjects.PROGRESS, "progress.*", f"progress-{self._name}")
        async for batch in follower.batches():
            await store.apply_progress([row for stored in batch if (row := _progress_row(stored))])
            await self._announce()
            await asyncio.sleep(BREATH_S)

    async def _announce(self) -> None:
        try:
            await self._bus.send(subjects.APPLIED)
        except UnavailableError:
            return  # a hint: readers look by themselves


def _progress_row(stored: Stored) -> tuple[object, ...] | None:
    task_id = TaskId(stored.subject.removeprefix("progress."))
    try:
        progress = events.decode_progress(stored.body)
    except (ValueError, RecursionError):
        return None
    shown = views.progress(task_id, progress)
    return (task_id, stored.sequence, progress.attempt, views.wire_progress(task_id, shown), shown)


def _text(errors: BaseExceptionGroup) -> str:
    return "; ".join(str(error) for error in errors.exceptions)
