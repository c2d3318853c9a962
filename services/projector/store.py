"""The read model's file: opened, checked, written in one transaction a batch.

The one rule: rows and checkpoint are committed together, in one hop to the writer's thread.
"""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite
from msgspec import Struct

from schemas import readmodel, views
from schemas.errors import TaskfoldError
from schemas.ids import TaskId
from schemas.subjects import parse_subject
from schemas.task import fold as fold_task
from services.bus.stored import Stored, recorded
from services.projector.projections import MOMENT, Fold, Known, decode_state

T = TypeVar("T")

CHECKPOINT_BYTES: Final = 4 * 1024 * 1024


# Checkpoints are made by us alone, so that any other change of the file is somebody else's.
_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "busy_timeout=5000",
    "mmap_size=0",
    "wal_autocheckpoint=0",
)


class UnusableError(TaskfoldError):
    """The file is not there, not whole, or of another schema; it has to be made anew."""


class Checkpoint(Struct, frozen=True):
    """``stream`` is the identity of the stream that was folded, ``sequence`` the last one committed."""

    sequence: int
    stream: str


class Store:
    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        self.path = path
        self._connection = connection
        self._as_we_left_it = _signature(path)
        file = path.resolve()
        self._wal = file.with_name(file.name + "-wal")

    async def checkpoint(self) -> Checkpoint:
        rows = tuple(await self._connection.execute_fetchall(readmodel.GET_CHECKPOINT))
        if not rows or rows[0][2] != readmodel.SCHEMA_VERSION:
            raise UnusableError("of another schema")
        return Checkpoint(rows[0][0], rows[0][1])

    async def apply(self, batch: list[Stored]) -> int:
        """Fold a batch and commit it with its checkpoint; how many events it ignored."""
        return await self._hop(lambda db: self._fold_and_checkpoint(db, batch))

    def _fold_and_checkpoint(self, database: sqlite3.Connection, batch: list[Stored]) -> int:
        ignored = _fold_into(database, batch)
        if _size(self._wal) > CHECKPOINT_BYTES:
            self._checkpoint_file(database, "PASSIVE")
        return ignored

    def _checkpoint_file(self, database: sqlite3.Connection, mode: str) -> None:
        """Move the write-ahead log into the file, which nobody else ever writes."""
        database.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        self._as_we_left_it = _signature(self.path)

    async def apply_progress(self, rows: list[tuple[object, ...]]) -> None:
        """Store the latest progress of running attempts."""
        await self._hop(lambda db: _in_transaction(db, [(readmodel.UPSERT_PROGRESS, rows)]))

    async def _hop(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """Run on the writer's thread as one piece; aiosqlite says no public word for that."""
        database = self._connection._conn  # noqa: SLF001 - as said
        result: T = await self._connection._execute(act, database)  # type: ignore[no-untyped-call]  # noqa: SLF001 - as said
        return result

    async def verify_in_place(self) -> None:
        """Notice that the file was deleted, replaced, or written by somebody else.

        On the writer's thread, so that no checkpoint of ours is under way.
        """
        await self._hop(lambda _: self._verify())

    def _verify(self) -> None:
        try:
            found = _signature(self.path)
        except OSError as error:
            raise UnusableError(f"cannot be read: {error.strerror}") from error
        if found != self._as_we_left_it:
            raise UnusableError("was changed by somebody else")

    async def check(self) -> None:
        """Read the whole file and raise UnusableError if it is not sound."""
        rows = tuple(await self._connection.execute_fetchall("PRAGMA quick_check(1)"))
        if not rows or rows[0][0] != "ok":
            raise UnusableError(f"is corrupt: {rows[0][0] if rows else 'unreadable'}")

    async def seal(self) -> None:
        """Move everything into the one file, so that it can be renamed."""
        await self._hop(lambda db: self._checkpoint_file(db, "TRUNCATE"))


@contextlib.asynccontextmanager
async def opened(path: Path, *, new_for: str | None = None) -> AsyncIterator[Store]:
    """Open the read model, or make a new one for the stream of that identity.

    UnusableError if it is not sound.
    """
    if new_for is None and not path.exists():  # noqa: ASYNC240 - a look, not a read
        raise UnusableError("is not there")
    connection = await aiosqlite.connect(path, isolation_level=None)
    try:
        for pragma in _PRAGMAS:
            await connection.execute_fetchall(f"PRAGMA {pragma}")
        if new_for is not None:
            await connection.executescript(readmodel.TABLES + readmodel.INDEXES)
            values = (0, new_for, readmodel.SCHEMA_VERSION)
            await connection.execute_fetchall(readmodel.INIT_CHECKPOINT, values)
        store = Store(path, connection)
        if new_for is None:
            await store.check()
        yield store
    except sqlite3.DatabaseError as error:
        raise UnusableError(f"cannot be used: {error}") from error
    finally:
        with contextlib.suppress(sqlite3.Error):
            await connection.close()


def _signature(path: Path) -> tuple[int, int, int]:
    """Say which file it is, how long, and when it was last written."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


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
        if not other.name.startswith(built.name):
            other.unlink(missing_ok=True)


def _fold_into(database: sqlite3.Connection, batch: list[Stored]) -> int:
    fold = _fold_from(database, batch[-1].sequence)
    for stored in batch:
        address, event = recorded(stored)
        if address is not None and fold.missing(event.task_id):
            fold.remember(event.task_id, _load(database, event.task_id))
        fold.apply(event, address)
    last = batch[-1].sequence
    _in_transaction(
        database,
        [
            (readmodel.UPSERT_TASK, fold.tasks()),
            (readmodel.INSERT_TAG, fold.tags),
            (readmodel.INSERT_EVENT, fold.events),
            (readmodel.DELETE_EVENTS, fold.erased),
            (readmodel.FORGET, ((number,) for number, _ in fold.erased)),
            (readmodel.DELETE_PROGRESS, fold.not_running()),
            (readmodel.ADD_COUNT, fold.counts()),
            (readmodel.ADD_LANE_DEPTH, fold.depths()),
            (readmodel.ADD_QUEUE, fold.queues()),
            (readmodel.ADD_BATCH, fold.batches()),
            (readmodel.END_BATCH, fold.ended_batches()),
            (readmodel.INSERT_MOMENT, fold.moments),
            (readmodel.SET_CHECKPOINT, [(last, fold.ignored, last)]),
        ],
    )
    return fold.ignored


def _fold_from(database: sqlite3.Connection, last: int) -> Fold:
    """Begin a fold where the file is; how the queues stand is read only if it comes past a moment."""
    [(sequence, *_)] = database.execute(readmodel.GET_CHECKPOINT).fetchall()
    rows = database.execute(readmodel.GET_QUEUES) if sequence // MOMENT != last // MOMENT else ()
    return Fold(sequence, {(kind, model): numbers for kind, model, *numbers in rows})


def _load(database: sqlite3.Connection, task_id: TaskId) -> Known | None:
    row = database.execute(readmodel.GET_STATE, (task_id,)).fetchone()
    if row is None:
        return None
    number, prefix, state = row
    address, _ = parse_subject(f"{prefix}.state")
    if state is not None:
        return Known(number, decode_state(state), address)
    # Little follows an end, so of what ended the state is not kept beside its events.
    wires = database.execute(readmodel.HISTORY_OF_TASK, (number,)).fetchall()
    return Known(number, fold_task(task_id, (views.recorded(wire) for (wire,) in wires)), address)


def _in_transaction(
    database: sqlite3.Connection, statements: list[tuple[str, Iterable[tuple[object, ...]]]]
) -> None:
    database.execute("BEGIN IMMEDIATE")
    try:
        for statement, rows in statements:
            database.executemany(statement, rows)
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise
