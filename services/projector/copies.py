"""Copies of the read model, so that a start-up does not depend on the age of the log.

The one rule: a copy comes under its name once it was read through and found whole, and what is made of one
is read through again.
"""

import asyncio
import re
import shutil
import sqlite3
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from schemas import readmodel
from services import clock
from services.disk import to_disk
from services.projector.looking import Look, look, sound
from services.projector.store import SNAPSHOT, UnusableError

log = structlog.get_logger()

RETRY_S: Final = 600.0
_PART: Final = ".part"
_PAGES: Final = 2000
"""So many pages are copied until it looks whether it should end: 8 MB, some milliseconds."""
_GENERATION: Final = re.compile(r"\.[0-9a-f]{8}(?![0-9a-f])")


class _Told(NamedTuple):
    """What a file says of itself."""

    sequence: int
    stream: str
    schema: int


def snapshot_of(path: Path) -> Path:
    """Say where the copy of a read model is."""
    return path.with_name(path.name + SNAPSHOT)


async def keep_copied(path: Path, every: timedelta) -> None:
    """Have a copy beside the file that is not older than that, unless it is zero; runs until cancelled."""
    if not every:
        return
    if await asyncio.to_thread(_of_another, path):
        await _try(path)
    while True:
        await asyncio.sleep(due_s(snapshot_of(path), every))
        await _try(path)


def due_s(snapshot: Path, every: timedelta) -> float:
    """Say in how many seconds the copy will be too old."""
    try:
        made = snapshot.stat().st_mtime
    except OSError:
        return 0.0
    return max(0.0, made + every.total_seconds() - clock.now().timestamp())


def _of_another(path: Path) -> bool:
    """Whether the copy could not stand in for the file: of another log, or version."""
    try:
        return _told(snapshot_of(path))[1:] != _told(path)[1:]
    except (sqlite3.Error, UnusableError):
        return True


async def _try(path: Path) -> None:
    try:
        await copy(path)
    except (UnusableError, sqlite3.Error, OSError) as error:
        log.warning("snapshot.failed", reason=str(error))
        await asyncio.sleep(RETRY_S)


async def copy(path: Path) -> None:
    """Copy the file as it is now, beside whoever writes it.

    UnusableError where that is not sound, sqlite3.Error, OSError: the copy from before stays.
    """
    snapshot = snapshot_of(path)
    part = snapshot.with_name(snapshot.name + _PART)
    began = clock.monotonic()
    try:
        sequence = await look(path, partial(copy_into, part=part))
        await sound(part)
        part.replace(snapshot)
        await asyncio.to_thread(to_disk, snapshot.parent)
    finally:
        part.unlink(missing_ok=True)
    log.info("snapshot.made", sequence=sequence, seconds=round(clock.monotonic() - began, 3))


def copy_into(seen: Look, part: Path) -> int:
    """Copy piece by piece; gives the checkpoint. Reading that first keeps it all of one moment."""
    [(sequence, *_)] = seen.database.execute(readmodel.GET_CHECKPOINT).fetchall()
    part.unlink(missing_ok=True)
    target = sqlite3.connect(part, isolation_level=None)
    try:
        for pragma in ("journal_mode=OFF", "synchronous=OFF"):
            target.execute(f"PRAGMA {pragma}").fetchall()
        seen.database.backup(target, pages=_PAGES, progress=lambda *_: seen.go_on())
        target.execute("PRAGMA journal_mode=DELETE").fetchall()  # so that it can be read as one file
    finally:
        target.close()
    to_disk(part)
    return int(sequence)


async def restored(path: Path, stream: str, first: int) -> Path | None:
    """Make a new file from the copy, to be put in place and followed; None, and why, where that cannot be.

    ``stream``: the identity of the log; ``first``: the first sequence that it still has.
    """
    snapshot = snapshot_of(path)
    if not snapshot.exists():
        return None
    built = path.with_name(f"{path.name}.{clock.new_name()[:8]}")
    try:
        told = await asyncio.to_thread(_told, snapshot)
        _check(told, stream, first)
        await asyncio.to_thread(_copied, snapshot, built)
        await sound(built)
    except (UnusableError, sqlite3.Error, OSError) as error:
        log.warning("snapshot.unusable", reason=str(error))
        _remove(built)
        return None
    log.info("snapshot.restored", sequence=told.sequence)
    return built


def _check(told: _Told, stream: str, first: int) -> None:
    if told.schema != readmodel.SCHEMA_VERSION:
        raise UnusableError("of another schema")
    if told.stream != stream:
        raise UnusableError("was folded from another stream")
    if told.sequence < first - 1:
        raise UnusableError(f"ends at sequence {told.sequence}, and the log begins at {first}")


def _told(file: Path) -> _Told:
    """Read what a file says of itself; UnusableError where it says nothing, sqlite3.Error as it comes."""
    database = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        row = database.execute(readmodel.GET_CHECKPOINT).fetchone()
    finally:
        database.close()
    if row is None:
        raise UnusableError("has no checkpoint")
    return _Told(*row)


def _copied(snapshot: Path, built: Path) -> None:
    shutil.copyfile(snapshot, built)
    to_disk(built)


def tidy(path: Path) -> None:
    """Remove what crashes have left; before anything is opened, or built.

    Files that no name points to are left where there is no other: old tasks may yet be taken from them.
    """
    for name in (f"{path.name}.link", f"{path.name}{SNAPSHOT}{_PART}"):
        path.with_name(name).unlink(missing_ok=True)
    if not path.exists():
        return
    live = path.resolve().name
    for other in path.parent.glob(f"{path.name}.*"):
        if _GENERATION.match(other.name.removeprefix(path.name)) and not other.name.startswith(live):
            other.unlink(missing_ok=True)


def _remove(built: Path) -> None:
    for end in ("", "-wal", "-shm"):
        built.with_name(built.name + end).unlink(missing_ok=True)
