"""Reading the read model: the one place of the api that opens SQLite, and only ever to read.

The one rule: what cannot be read is a hint to the projector and an error that says so, never an answer.
Reads by primary key run on the event loop, where they take microseconds; lists run in a thread.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiosqlite
import structlog

from schemas import readmodel, text, textindex
from schemas.errors import UnavailableError

log = structlog.get_logger()

Row = tuple[Any, ...]  # Any: a column can be of any of SQLite's types

_SETUP: Final = ("PRAGMA query_only = 1", "PRAGMA mmap_size = 0", "PRAGMA busy_timeout = 50")


class ReadModelAwayError(UnavailableError):
    """The read model's file is not there, or cannot be read."""


class TextIndexAwayError(UnavailableError):
    """The text index beside the read model is not there, or cannot be read."""


class ReadModel:
    """``suspect`` is called when the file could not be read."""

    def __init__(self, path: Path, suspect: Callable[[], None]) -> None:
        self._path = path
        self._suspect = suspect
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._generation = 0
        self._away = False
        self._lists: aiosqlite.Connection | None = None
        self._lists_generation = -1
        self._attached = 0
        """The inode of the text index beside the lists."""
        self._lists_lock = asyncio.Lock()

    @property
    def generation(self) -> int:
        """Counts the files and connections that were read from."""
        return self._generation

    def rows(self, sql: str, *parameters: Any) -> list[Row]:
        """Run a short query at once; ReadModelAwayError when it cannot be run."""  # Any: as Row
        connection = self._connection
        if connection is not None:
            try:
                return connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                self._doubt(error)
        try:
            return self._open().execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            self._doubt(error)
            raise ReadModelAwayError(f"the read model cannot be read: {error}") from error

    def row(self, sql: str, *parameters: Any) -> Row | None:  # Any: as Row
        found = self.rows(sql, *parameters)
        return found[0] if found else None

    async def page(self, sql: str, parameters: Sequence[Any], *, text: bool = False) -> list[Row]:
        """Run a query that may take longer, in a thread; ReadModelAwayError when it cannot be run.

        ``text``: it asks the text index too; TextIndexAwayError when that is why.
        """
        async with self._lists_lock:  # Any: as Row
            try:
                connection = await self._open_lists()
                if text:
                    await self._attach(connection)
                return list(await connection.execute_fetchall(sql, parameters))  # type: ignore[arg-type]  # rows are tuples
            except (sqlite3.Error, ValueError) as error:
                await self._close_lists()
                if text:
                    self._suspect()
                    raise TextIndexAwayError(f"the text index cannot be read: {error}") from error
                self._doubt(error)
                raise ReadModelAwayError(f"the read model cannot be read: {error}") from error

    async def _attach(self, lists: aiosqlite.Connection) -> None:
        """Have the text index of the very file that is open beside it."""
        [main, *_] = await lists.execute_fetchall("PRAGMA database_list")
        file = Path(main[2] + textindex.SUFFIX)
        try:
            inode = file.stat().st_ino  # noqa: ASYNC240 - a look at a local file
        except OSError as error:
            raise TextIndexAwayError(f"there is no text index: {error.strerror}") from error
        if inode != self._attached:
            if self._attached:
                await lists.execute_fetchall(textindex.DETACH)
                self._attached = 0
            await lists.execute_fetchall(textindex.ATTACH, (_uri(file),))
            self._attached = inode

    def look(self) -> None:
        """Let go of a file that is no longer the one under its name."""
        if self._connection is not None and self._inode != self._inode_now():
            log.info("readmodel.replaced")
            self._drop()

    def still(self, generation: int) -> bool:
        """Whether what was read from then is still the file under its name."""
        self.look()
        return self._connection is not None and self._generation == generation

    async def close(self) -> None:
        self._drop()
        async with self._lists_lock:
            await self._close_lists()

    def _doubt(self, error: Exception) -> None:
        if not self._away:  # once, not with every read
            log.warning("readmodel.away", error=str(error))
            self._away = True
        self._drop()
        self._suspect()

    def _open(self) -> sqlite3.Connection:
        inode = self._inode_now()
        connection = sqlite3.connect(
            _uri(self._path),
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            for statement in _SETUP:
                connection.execute(statement)
            _check_schema(connection.execute(readmodel.GET_CHECKPOINT).fetchone())
        except sqlite3.Error:
            connection.close()
            raise
        self._connection, self._inode = connection, inode
        self._generation += 1
        if self._away:
            log.info("readmodel.back")
            self._away = False
        return connection

    async def _open_lists(self) -> aiosqlite.Connection:
        if self._connection is None:
            self._open()
        if self._lists is None or self._lists_generation != self._generation:
            await self._close_lists()
            self._lists = await aiosqlite.connect(_uri(self._path), uri=True, isolation_level=None)
            self._lists_generation = self._generation
            for statement in _SETUP:
                await self._lists.execute_fetchall(statement)
            await self._lists.create_function("stands_in", 2, _stands_in, deterministic=True)
        return self._lists

    async def _close_lists(self) -> None:
        lists, self._lists, self._attached = self._lists, None, 0
        if lists is not None:
            with contextlib.suppress(sqlite3.Error):
                await lists.close()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _inode_now(self) -> int:
        try:
            return self._path.stat().st_ino
        except OSError:
            return 0


def _stands_in(words: str | None, wanted: str) -> bool:
    """Whether what is searched for stands in the words of a prompt, if it has any."""
    return words is not None and text.stands_in(text.search(wanted), words.split())


def _uri(path: Path) -> str:
    return f"{path.as_uri()}?mode=ro"


def _check_schema(checkpoint: Row | None) -> None:
    if checkpoint is None or checkpoint[2] != readmodel.SCHEMA_VERSION:
        raise sqlite3.DatabaseError("the read model has another schema")
