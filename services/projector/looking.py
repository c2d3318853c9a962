"""A look at the whole of a file, beside the writer and without stopping it.

The one rule: who looks has a thread and a read-only connection of its own, sees one moment, and is ended by
a cancellation.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from services.projector.store import UnusableError

T = TypeVar("T")

_AGAIN_S: Final = 0.02


class Look:
    """A file as it is at one moment."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self._over = threading.Event()

    def go_on(self) -> None:
        """Raise if nobody waits for it any more; for what SQLite does not interrupt."""
        if self._over.is_set():
            raise sqlite3.OperationalError("interrupted")

    def end(self) -> None:
        self._over.set()
        self.database.interrupt()


async def look(path: Path, act: Callable[[Look], T]) -> T:
    """Do something with the file in a thread; sqlite3.Error as it comes."""
    uri = f"{path.resolve().as_uri()}?mode=ro"  # noqa: ASYNC240 - it is quick
    database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        database.execute("BEGIN")
        return await in_thread(database, act)
    finally:
        database.close()


async def in_thread(database: sqlite3.Connection, act: Callable[[Look], T]) -> T:
    """Do something with a connection that is for any thread; what is cancelled has ended."""
    seen = Look(database)
    running = asyncio.get_running_loop().run_in_executor(None, act, seen)
    try:
        return await asyncio.shield(running)
    finally:
        while not running.done():
            seen.end()  # again and again, since it ends only what is being done at the time
            await asyncio.wait((running,), timeout=_AGAIN_S)


async def sound(path: Path) -> None:
    """Read the whole file; UnusableError if it is not sound."""
    try:
        found = await look(path, lambda seen: seen.database.execute("PRAGMA quick_check(1)").fetchone())
    except sqlite3.Error as error:
        raise UnusableError(f"cannot be used: {error}") from error
    if found != ("ok",):
        raise UnusableError(f"is corrupt: {found[0] if found else 'unreadable'}")
