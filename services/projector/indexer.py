"""The words of prompts, indexed behind the fold in a file of their own.

The one rule: it never holds up the fold, and what is wrong with its file is mended by making it anew.
A task is forgotten by the read model's list of those only once no byte of its words is left in the file.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import structlog

from schemas import textindex, writing
from schemas.errors import TaskfoldError
from services.process import at_most
from services.projector.store import Store

log = structlog.get_logger()

T = TypeVar("T")

CHUNK: Final = 1000
TICK_S: Final = 0.25
RETRY_S: Final = 1.0
# Small batches of tasks are gathered for so long, so that each is no transaction of its own.
_BREATH_S: Final = 0.02
_REST: Final = 0.5
"""How long it rests after a piece of work, as a part of what that took."""
_PRAGMAS: Final = ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=5000", "secure_delete=ON")


class SpoiltError(TaskfoldError):
    """The file is not there, not whole, or of another version; it has to be made anew."""


class TextFile:
    """The text index of a read model, both opened; used on one thread."""

    def __init__(self, model: Path) -> None:
        file = model.resolve()
        self._path = file.with_name(file.name + textindex.SUFFIX)
        self._model = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            self._text = self._opened()
        except SpoiltError:
            self._remove()
            self._text = self._opened()
        self._inode = self._path.stat().st_ino

    def _opened(self) -> sqlite3.Connection:
        new = not self._path.exists()
        database = sqlite3.connect(self._path, isolation_level=None)
        with self._spoilt(database):
            for pragma in _PRAGMAS:
                database.execute(f"PRAGMA {pragma}").fetchall()
            if new:
                database.executescript(f"BEGIN; {textindex.TABLES} COMMIT;")
            row = database.execute(textindex.GET_INDEXED).fetchone()
            if row is None or row[1] != textindex.VERSION:
                raise SpoiltError("of another version")
            self.number: int = row[0]
        return database

    def add(self) -> int:
        """Index the tasks that come next; how many there were, fewer than CHUNK if there are no more."""
        rows = self._model.execute(writing.PROMPTS_AFTER, (self.number, CHUNK)).fetchall()
        if not rows:
            return 0
        found = ((number, textindex.indexed_words(document)) for number, document in rows)
        with self._spoilt(self._text), self._text:
            self._text.execute("BEGIN")
            self._text.executemany(textindex.INSERT_PROMPT, (row for row in found if row[1]))
            self._text.execute(textindex.SET_INDEXED, (rows[-1][0],))
        self.number = rows[-1][0]
        return len(rows)

    def advance(self) -> tuple[int, list[int]]:
        """Index and take out what comes next, in one trip to the thread; gives what those two give."""
        return self.add(), self.take_out(0)

    def take_out(self, after: int) -> list[int]:
        """Take out the next tasks that are to be forgotten; gives their numbers."""
        rows = self._model.execute(writing.FORGOTTEN_AFTER, (after, CHUNK))
        numbers = [number for (number,) in rows]
        if numbers:
            with self._spoilt(self._text), self._text:
                self._text.execute("BEGIN")
                self._text.executemany(textindex.DELETE_PROMPT, ((number,) for number in numbers))
        return numbers

    def merge(self, how: str) -> bool:
        """Merge a piece of the index; whether there is more to be merged."""
        with self._spoilt(self._text):
            before = self._text.total_changes
            self._text.execute(how)
            return self._text.total_changes - before > 1

    def clean(self) -> bool:
        """Move everything into the one file; False while a reader stands in the way."""
        with self._spoilt(self._text):
            [(busy, *_)] = self._text.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return not busy

    def verify(self) -> None:
        """Notice that the file was deleted or replaced."""
        try:
            inode = self._path.stat().st_ino
        except OSError as error:
            raise SpoiltError(f"cannot be read: {error.strerror}") from error
        if inode != self._inode:
            raise SpoiltError("was replaced by somebody else")

    def check(self) -> None:
        """Read the whole file."""
        with self._spoilt(self._text):
            if (found := self._text.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
                raise SpoiltError(f"is corrupt: {found}")
            self._text.execute(textindex.CHECK)

    def interrupt(self) -> None:
        """End what the thread does, from any other."""
        with contextlib.suppress(sqlite3.Error):
            self._text.interrupt()

    def close(self, *, remove: bool = False) -> None:
        for database in (self._text, self._model):
            with contextlib.suppress(sqlite3.Error):
                database.close()
        if remove:
            self._remove()

    def _remove(self) -> None:
        for end in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _spoilt(self, database: sqlite3.Connection) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                database.close()
            raise SpoiltError(f"cannot be used: {error}") from error


class _Worker:
    """The one thread that uses the files."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "text")

    async def run(self, act: Callable[..., T], *with_: object) -> T:
        """Run it there, and rest a while."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = await loop.run_in_executor(self._thread, act, *with_)
        await asyncio.sleep((loop.time() - began) * _REST)
        return result

    def end(self, last: Callable[[], None]) -> None:
        """Wait for what it does, and for this."""
        self._thread.submit(last)
        self._thread.shutdown()


async def fill(store: Store) -> None:
    """Index a whole read model that nobody reads yet."""
    worker = _Worker()
    file = None
    try:
        file = await worker.run(lambda: TextFile(store.path))
        while await worker.run(file.add) == CHUNK:
            pass
    except (SpoiltError, sqlite3.Error, OSError) as error:
        log.warning("text.unusable", reason=str(error))  # made anew by who follows
    finally:
        if file is not None:
            file.interrupt()
        worker.end(file.close if file is not None else _nothing)


def _nothing() -> None:
    """There was no file."""


class Indexer:
    """Indexes a read model that is being followed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._suspected = False

    def suspect(self) -> None:
        """Have the file read, since somebody could not."""
        self._suspected = True

    async def run(self) -> None:
        """Index for ever."""
        while True:
            try:
                await self._open()
            except sqlite3.Error as error:
                log.debug("text.waiting", error=str(error))  # the fold looks after the read model
            except (SpoiltError, OSError) as error:
                log.warning("text.unusable", reason=str(error))
            await asyncio.sleep(RETRY_S)

    async def _open(self) -> None:
        """Follow one file until it is spoilt."""
        worker = _Worker()
        try:
            file = await worker.run(TextFile, self._store.path)
        except BaseException:
            worker.end(lambda: None)
            raise
        spoilt = False
        try:
            await self._follow(file, worker)
        except SpoiltError:
            spoilt = True
            raise
        finally:
            file.interrupt()
            worker.end(lambda: file.close(remove=spoilt))

    async def _follow(self, file: TextFile, worker: _Worker) -> None:
        while True:
            self._store.applied.clear()
            if numbers := await self._advance(file, worker):
                await self._forget(file, worker, numbers)
            file.verify()
            if self._suspected:
                self._suspected = False
                await worker.run(file.check)
            async with at_most(TICK_S):
                await self._store.applied.wait()
            await asyncio.sleep(_BREATH_S)

    async def _advance(self, file: TextFile, worker: _Worker) -> list[int]:
        """Index all that there is; gives what was taken out."""
        added, some = await worker.run(file.advance)
        while added == CHUNK:
            added = await worker.run(file.add)
        numbers = some
        while len(some) == CHUNK:
            some = await worker.run(file.take_out, numbers[-1])
            numbers += some
        return numbers

    async def _forget(self, file: TextFile, worker: _Worker, numbers: list[int]) -> None:
        """Make sure that nothing is left of what was taken out, and index meanwhile what comes."""
        how = textindex.MERGE_ALL
        while await worker.run(file.merge, how):
            how = textindex.MERGE_ON
            await worker.run(file.add)
        if await worker.run(file.clean):  # else once more with the next look
            await self._store.drop_forgotten(numbers)
