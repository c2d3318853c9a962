"""Following the log into the read model, and making the read model anew when it cannot be trusted.

The one rule: SQLite is the truth about the position, the stream about everything else.
"""

import asyncio
import sqlite3
from pathlib import Path
from typing import Final

import structlog

from schemas import events, subjects, views
from schemas.errors import UnavailableError
from schemas.ids import TaskId
from services import clock
from services.bus.connection import ApiError, Bus
from services.bus.follow import Follower
from services.bus.stored import Stored
from services.bus.streams import StreamInfo, stream_info
from services.process import background
from services.projector.indexer import Indexer
from services.projector.store import Checkpoint, Store, UnusableError, opened, put_in_place

log = structlog.get_logger()

TICK_S: Final = 0.25
RETRY_S: Final = 0.5
# The first event of a burst is folded at once; what comes within this time after it is one batch, which
# costs a commit and a hint instead of many.
BREATH_S: Final = 0.005


class Projector:
    def __init__(self, bus: Bus, path: Path, name: str) -> None:
        self._bus = bus
        self._path = path
        self._name = name
        self._suspect = asyncio.Event()
        self._reconnected = asyncio.Event()
        bus.on_reconnect(self._reconnected.set)

    async def run(self) -> None:
        """Project for ever; runs until it is cancelled."""
        await self._bus.subscribe(subjects.SUSPECT, self._on_suspect)
        if not self._path.exists():
            await self._rebuild()
        while True:
            try:
                async with opened(self._path) as store:
                    await self._follow(store)
            except* (UnusableError, sqlite3.Error) as errors:
                log.warning("readmodel.unusable", path=str(self._path), reason=_text(errors))
            await self._rebuild()

    async def _on_suspect(self, _: object) -> None:
        self._suspect.set()

    async def _identity(self) -> StreamInfo:
        while True:
            try:
                return await stream_info(self._bus, subjects.TASKS)
            except (UnavailableError, ApiError) as error:
                log.debug("stream.waiting", error=str(error))
                await asyncio.sleep(RETRY_S)

    async def _follow(self, store: Store) -> None:
        """Fold what comes; ends with UnusableError once the file or the stream is not what it was."""
        checkpoint = await store.checkpoint()
        self._suspect.clear()
        self._reconnected.set()
        indexer = Indexer(store)
        async with background(
            self._fold(store, checkpoint),
            self._fold_progress(store),
            self._watch_stream(store),
            indexer.run(),
        ):
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
            stream, checkpoint = await self._identity(), await store.checkpoint()
            if stream.created != checkpoint.stream or stream.last < checkpoint.sequence:
                raise UnusableError("was folded from another stream")

    async def _fold(self, store: Store, checkpoint: Checkpoint) -> None:
        follower = self._follower(checkpoint.sequence + 1)
        async for batch in follower.batches():
            await store.verify_in_place()
            if ignored := await store.apply(batch):
                log.warning("events.ignored", count=ignored, up_to=batch[-1].sequence)
            await self._announce()
            await asyncio.sleep(BREATH_S)

    async def _fold_progress(self, store: Store) -> None:
        follower = Follower(self._bus, subjects.PROGRESS, "progress.*", f"progress-{self._name}")
        async for batch in follower.batches():
            await store.apply_progress([row for stored in batch if (row := _progress_row(stored))])
            await self._announce()
            await asyncio.sleep(BREATH_S)

    async def _announce(self) -> None:
        try:
            await self._bus.send(subjects.APPLIED)
        except UnavailableError:
            return  # a hint: readers look by themselves

    def _follower(self, start: int) -> Follower:
        name = f"projector-{self._name}"
        return Follower(self._bus, subjects.TASKS, subjects.TASK_EVENTS, name, start)

    async def _rebuild(self) -> None:
        """Fold the whole log into a new file, and put it in place once it has caught up."""
        stream = await self._identity()
        log.info("readmodel.rebuilding", up_to=stream.last)
        built = self._path.with_name(f"{self._path.name}.{clock.new_name()[:8]}")
        async with opened(built, new_for=stream.created) as store:
            follower = self._follower(1)
            async with background(self._fill(follower, store)):
                await follower.caught_up.wait()
            await store.seal()
            checkpoint = await store.checkpoint()
        put_in_place(built, self._path)
        log.info("readmodel.rebuilt", sequence=checkpoint.sequence)

    async def _fill(self, follower: Follower, store: Store) -> None:
        async for batch in follower.batches():
            await store.apply(batch)


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
