"""The read model's file: opened, checked, written in one transaction a batch.

The one rule: rows and checkpoint are committed together, in one hop to the writer's thread.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite
from msgspec import Struct

from schemas import readmodel, writing
from schemas.errors import TaskfoldError
from services.bus.stored import Stored, recorded
from services.projector.folding import fold_into, in_transaction
from services.projector.pruning import drop_finished

T = TypeVar("T")

CHECKPOINT_FRAMES: Final = 1000
"""So many changed pages are gathered in the write-ahead log before they are moved into the file."""
SNAPSHOT: Final = ".snapshot"
"""Ends the name of the copy that outlives every file that it was made of."""


# Checkpoints are made by us alone, so that any other change of the file is somebody else's.
_BUSY_TIMEOUT: Final = "busy_timeout=5000"
_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    _BUSY_TIMEOUT,
    "mmap_size=0",
    "wal_autocheckpoint=0",
)


# As SQLite writes a log: https://www.sqlite.org/fileformat2.html#walformat
_WAL_HEAD, _FRAME_HEAD, _PAGE, _SALT_BYTES, _SALT_AT, _FRAME_SALT_AT = 32, 24, 4096, 8, 16, 8


class UnusableError(TaskfoldError):
    """The file is not there, not whole, or of another schema; it has to be made anew."""


class Checkpoint(Struct, frozen=True):
    """``stream`` is the identity of the stream that was folded, ``sequence`` the last one committed."""

    sequence: int
    stream: str


class Store:
    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self.path = path
        self.applied = asyncio.Event()
        """Set with each batch; whoever waits for it clears it."""
        self._connection = connection
        self._as_we_left_it = _signature(path)
        self._to_be_emptied = False
        file = path.resolve()
        self._wal = file.with_name(file.name + "-wal")

    async def checkpoint(self) -> Checkpoint:
        rows = tuple(await self._connection.execute_fetchall(readmodel.GET_CHECKPOINT))
        if not rows or rows[0][2] != readmodel.SCHEMA_VERSION:
            raise UnusableError("of another schema")
        return Checkpoint(rows[0][0], rows[0][1])

    async def apply(self, batch: list[Stored]) -> int:
        """Fold a batch and commit it with its checkpoint; how many events it ignored.

        UnusableError where the file is not as it was left.
        """
        ignored = await self._hop(lambda db: self._fold_and_checkpoint(db, batch))
        self.applied.set()
        return ignored

    def _fold_and_checkpoint(self, database: sqlite3.Connection, batch: list[Stored]) -> int:
        self._verify(database)
        told = [recorded(stored) for stored in batch]
        folded = fold_into(database, told, batch[-1].sequence)
        self._to_be_emptied = self._to_be_emptied or folded.erased
        self._bound_log(database)
        return folded.ignored

    def _bound_log(self, database: sqlite3.Connection) -> None:
        """Keep the write-ahead log short, and empty it where something in it has been erased.

        A reader of an earlier moment keeps it from being emptied; it is not waited for, but tried again.
        """
        if self._to_be_emptied:
            database.execute("PRAGMA busy_timeout = 0").fetchall()
            self._to_be_emptied = not self._checkpoint_file(database, "TRUNCATE")
            database.execute(f"PRAGMA {_BUSY_TIMEOUT}").fetchall()
        elif _reaches(self._wal, CHECKPOINT_FRAMES):
            self._checkpoint_file(database, "PASSIVE")

    def _checkpoint_file(self, database: sqlite3.Connection, mode: str) -> bool:
        """Move the write-ahead log into the file, which nobody else ever writes; whether all of it was."""
        [(busy, *_)] = database.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        self._as_we_left_it = _signature(self.path)
        return not busy

    async def apply_progress(self, rows: list[tuple[object, ...]]) -> None:
        """Store the latest progress of running attempts."""
        await self._hop(lambda db: in_transaction(db, [(writing.UPSERT_PROGRESS, rows)]))

    async def drop_forgotten(self, numbers: list[int]) -> None:
        """Note that the text index has nothing more of these tasks."""
        rows = [(number,) for number in numbers]
        await self._hop(lambda db: in_transaction(db, [(writing.DROP_FORGOTTEN, rows)]))

    async def prune(self, before: datetime, most: int) -> int:
        """Let go of the tasks that finished first, if before then; how many there were, 0 for no more."""
        return await self._hop(lambda db: self._prune(db, before, most))

    def _prune(self, database: sqlite3.Connection, before: datetime, most: int) -> int:
        gone = drop_finished(database, before, most)
        self._bound_log(database)
        return gone

    async def _hop(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """Run on the writer's thread as one piece; aiosqlite says no public word for that."""
        database = self._connection._conn  # noqa: SLF001 - as said
        result: T = await self._connection._execute(act, database)  # type: ignore[no-untyped-call]  # noqa: SLF001 - as said
        return result

    async def verify_in_place(self) -> None:
        """Notice that the file was deleted, replaced, or written by somebody else.

        On the writer's thread, so that no checkpoint of ours is under way.
        """
        await self._hop(self._verify)

    def _verify(self, database: sqlite3.Connection) -> None:
        try:
            found = _signature(self.path)
        except OSError as error:
            raise UnusableError(f"cannot be read: {error.strerror}") from error
        if found != self._as_we_left_it:
            raise UnusableError("was changed by somebody else")
        if self._to_be_emptied:
            self._bound_log(database)

    async def check(self) -> None:
        """Read the whole file and raise UnusableError if it is not sound."""
        rows = tuple(await self._connection.execute_fetchall("PRAGMA quick_check(1)"))
        if not rows or rows[0][0] != "ok":
            raise UnusableError(f"is corrupt: {rows[0][0] if rows else 'unreadable'}")

    async def seal(self) -> None:
        """Move everything into the one file, so that it can be renamed."""
        await self._hop(lambda db: self._checkpoint_file(db, "TRUNCATE"))


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Store]:
    """Open a read model; UnusableError if that cannot be used."""
    if not path.exists():  # noqa: ASYNC240 - a look, not a read
        raise UnusableError("is not there")
    connection = await aiosqlite.connect(path, isolation_level=None)
    try:
        for pragma in _PRAGMAS:
            await connection.execute_fetchall(f"PRAGMA {pragma}")
        yield Store(path, connection)
    except sqlite3.DatabaseError as error:
        raise UnusableError(f"cannot be used: {error}") from error
    finally:
        with contextlib.suppress(sqlite3.Error):
            await connection.close()


def _signature(path: Path) -> tuple[int, int, int]:
    """Say which file it is, how long, and when it was last written."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _reaches(wal: Path, frames: int) -> bool:
    """Say whether a write-ahead log has so many frames.

    Its size does not say that: once moved into the file it is written over from its beginning, since to
    cut it off costs a sixth of all writing. But each time it has another salt, which its frames bear.
    """
    try:
        log = os.open(wal, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        salt = os.pread(log, _SALT_BYTES, _SALT_AT)
        frame = _WAL_HEAD + (frames - 1) * (_FRAME_HEAD + _PAGE)
        return salt != b"" and os.pread(log, _SALT_BYTES, frame + _FRAME_SALT_AT) == salt
    finally:
        os.close(log)


def put_in_place(built: Path, path: Path) -> None:
    """Let the name point to a sealed file; who still reads another one keeps it until it looks.

    A link, and not the file itself renamed: what SQLite keeps beside a file goes by the file's name, and
    must never be found beside another one.
    """
    link = path.with_name(path.name + ".link")
    link.unlink(missing_ok=True)
    link.symlink_to(built.name)
    link.replace(path)
    for other in path.parent.glob(f"{path.name}[.-]*"):
        if not other.name.startswith((built.name, path.name + SNAPSHOT)):
            other.unlink(missing_ok=True)
