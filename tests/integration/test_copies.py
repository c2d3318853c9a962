"""Copies of the read model: made beside the writer, started from where they can be, and left in peace."""

import asyncio
import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from schemas.events import Recorded
from services.process import background
from services.projector.checksum import checksum
from services.projector.copies import copy, copy_into, due_s, keep_copied, restored, snapshot_of, tidy
from services.projector.looking import Look, look, sound
from services.projector.store import UnusableError, opened, put_in_place
from tests.api import eventually
from tests.readmodels import STREAM, folded, lived, made

DAY = timedelta(days=1)
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


def in_place(folder: Path, file: Path) -> Path:
    path = folder / "readmodel.db"
    put_in_place(file, path)
    return path


@pytest.fixture
def readmodel(tmp_path: Path) -> Path:
    """Make a read model with its name pointing to it."""
    return in_place(tmp_path, made(tmp_path / "readmodel.db.00000001", lived(100)))


def said(file: Path) -> tuple[int, str]:
    """Give checkpoint and checksum."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("BEGIN")
        [(sequence,)] = database.execute("SELECT sequence FROM checkpoint").fetchall()
        return sequence, checksum(database)


def names(folder: Path) -> list[str]:
    """List a folder, without what SQLite may keep beside an open file."""
    return sorted(file.name for file in folder.iterdir() if not file.name.endswith(("-wal", "-shm")))


@contextlib.contextmanager
def writing(path: Path, told: list[Recorded]) -> Iterator[threading.Event]:
    """Fold event by event in a thread, beside the block; the event is set once it has begun."""
    begun, over = threading.Event(), threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous=OFF")
            for event in told:
                folded(database, [event])
                begun.set()
                if over.is_set():
                    return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield begun
    finally:
        over.set()
        thread.join()


async def test_a_copy_is_of_one_moment_however_much_is_written_meanwhile(tmp_path: Path) -> None:
    told = lived(2000)
    path = in_place(tmp_path, made(tmp_path / "readmodel.db.00000001", told[:2000]))
    copied = []
    with writing(path, told[2000:]) as begun:
        begun.wait(10)
        for _ in range(3):
            await copy(path)
            copied.append(said(snapshot_of(path)))
    assert copied == sorted(copied)
    for number, (sequence, digest) in enumerate(copied):
        assert sequence > 2000
        assert said(made(tmp_path / f"again-{number}", told[:sequence])) == (sequence, digest)


async def test_a_copy_is_one_file(readmodel: Path) -> None:
    await copy(readmodel)
    assert names(readmodel.parent) == ["readmodel.db", "readmodel.db.00000001", "readmodel.db.snapshot"]
    uri = f"{snapshot_of(readmodel).as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
        assert database.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_what_cannot_be_copied_leaves_the_copy_from_before(readmodel: Path) -> None:
    await copy(readmodel)
    before = snapshot_of(readmodel).read_bytes()
    readmodel.with_name("readmodel.db.00000001").unlink()
    with pytest.raises(sqlite3.Error):
        await copy(readmodel)
    assert snapshot_of(readmodel).read_bytes() == before
    assert names(readmodel.parent) == ["readmodel.db", "readmodel.db.snapshot"]


async def test_what_is_not_sound_takes_no_sound_copys_place(readmodel: Path) -> None:
    await copy(readmodel)
    before = snapshot_of(readmodel).read_bytes()
    spoilt(readmodel)
    with pytest.raises((UnusableError, sqlite3.Error)):
        await copy(readmodel)
    assert snapshot_of(readmodel).read_bytes() == before
    assert names(readmodel.parent) == ["readmodel.db", "readmodel.db.00000001", "readmodel.db.snapshot"]


async def test_a_copy_that_is_no_longer_wanted_ends(readmodel: Path, tmp_path: Path) -> None:
    def copied(seen: Look) -> int:
        seen.end()
        return copy_into(seen, tmp_path / "part")

    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        await look(readmodel, copied)


async def test_a_look_ends_when_it_is_cancelled(readmodel: Path) -> None:
    begun = threading.Event()

    def without_end(seen: Look) -> object:
        begun.set()
        return seen.database.execute(ENDLESS).fetchone()

    looking = asyncio.ensure_future(look(readmodel, without_end))
    await asyncio.to_thread(begun.wait)
    looking.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await looking


async def test_copies_are_made_as_often_as_asked(readmodel: Path) -> None:
    snapshot = snapshot_of(readmodel)
    assert due_s(snapshot, DAY) == 0

    async def is_young() -> bool:
        return due_s(snapshot, DAY) > 0

    async with background(keep_copied(readmodel, DAY)):
        await eventually(is_young)
        assert DAY.total_seconds() - 20 < due_s(snapshot, DAY) <= DAY.total_seconds()
    os.utime(snapshot, (0, 0))
    assert due_s(snapshot, DAY) == 0
    async with background(keep_copied(readmodel, DAY)):
        await eventually(is_young)


async def test_a_copy_of_another_log_is_made_anew_at_once(readmodel: Path) -> None:
    made(snapshot_of(readmodel), lived(10), stream="another")

    async def is_another() -> bool:
        return said(snapshot_of(readmodel)) == said(readmodel)

    async with background(keep_copied(readmodel, DAY)):
        await eventually(is_another)


async def test_no_copy_is_made_of_what_should_have_none(readmodel: Path) -> None:
    await keep_copied(readmodel, timedelta())
    assert not snapshot_of(readmodel).exists()


async def test_a_read_model_is_made_from_its_copy(readmodel: Path) -> None:
    await copy(readmodel)
    sequence, digest = said(readmodel)
    for lost in readmodel.parent.glob("readmodel.db.00000001*"):
        lost.unlink()
    readmodel.unlink()  # noqa: ASYNC240 - nothing else runs

    built = await restored(readmodel, STREAM, sequence + 1)

    assert built is not None
    assert built.name.startswith("readmodel.db.")
    put_in_place(built, readmodel)
    async with opened(readmodel) as store:
        assert (await store.checkpoint()).sequence == sequence
    assert said(readmodel) == said(snapshot_of(readmodel)) == (sequence, digest)


def spoilt(snapshot: Path) -> None:
    with snapshot.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(snapshot.stat().st_size - 8192))


def emptied(snapshot: Path) -> None:
    os.truncate(snapshot, 0)


def of_another_version(snapshot: Path) -> None:
    with contextlib.closing(sqlite3.connect(snapshot)) as database:
        database.execute("UPDATE checkpoint SET schema = schema - 1")
        database.commit()


def untouched(_: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("act", "stream", "first", "reason"),
    [
        (spoilt, STREAM, 1, "corrupt|malformed"),
        (emptied, STREAM, 1, "no such table"),
        (of_another_version, STREAM, 1, "of another schema"),
        (untouched, "another", 1, "another stream"),
        (untouched, STREAM, 10_000, "the log begins at 10000"),
    ],
)
async def test_a_copy_that_will_not_do_is_not_started_from(
    readmodel: Path, act: Callable[[Path], None], stream: str, first: int, reason: str
) -> None:
    await copy(readmodel)
    act(snapshot_of(readmodel))
    before = names(readmodel.parent)
    with capture_logs() as logs:
        assert await restored(readmodel, stream, first) is None
    [line] = logs
    assert (line["event"], line["log_level"]) == ("snapshot.unusable", "warning")
    assert re.search(reason, line["reason"])
    assert names(readmodel.parent) == before


async def test_without_a_copy_there_is_nothing_to_start_from(readmodel: Path) -> None:
    assert await restored(readmodel, STREAM, 1) is None


async def test_the_copy_outlives_the_file_that_it_was_made_of(readmodel: Path) -> None:
    await copy(readmodel)
    put_in_place(made(readmodel.with_name("readmodel.db.00000002")), readmodel)
    assert names(readmodel.parent) == ["readmodel.db", "readmodel.db.00000002", "readmodel.db.snapshot"]


def test_what_crashes_have_left_is_removed_and_nothing_else(readmodel: Path) -> None:
    stay = [".00000001.text", ".snapshot", ".0123456789", ".note"]
    go = [".link", ".snapshot.part", ".89abcdef", ".89abcdef-journal", ".89abcdef.text"]
    for end in stay + go:
        readmodel.with_name(readmodel.name + end).touch()
    tidy(readmodel)
    assert names(readmodel.parent) == sorted(
        ["readmodel.db", "readmodel.db.00000001", *(f"readmodel.db{end}" for end in stay)]
    )


def test_files_are_left_for_a_rebuild_where_the_name_points_to_none(readmodel: Path) -> None:
    readmodel.unlink()
    tidy(readmodel)
    assert names(readmodel.parent) == ["readmodel.db.00000001"]


async def test_a_file_is_sound_or_it_is_said_why_not(readmodel: Path) -> None:
    await sound(readmodel)
    spoilt(readmodel)
    with pytest.raises(UnusableError, match=r"is corrupt|cannot be used"):
        await sound(readmodel)
