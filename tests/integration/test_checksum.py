"""One digest over all that a read model says: equal for equals, another for whatever differs."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from services.projector.building import Building
from services.projector.checksum import checksum
from tests.readmodels import STREAM, addressed, folded, lived, made

TOLD = lived(60)


def digest(file: Path, *changes: str) -> str:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        for change in changes:
            database.execute(change)
        return checksum(database)


def test_it_is_the_same_however_the_file_was_made(tmp_path: Path) -> None:
    whole = digest(made(tmp_path / "at-once", TOLD))

    one_by_one = made(tmp_path / "one-by-one")
    with contextlib.closing(sqlite3.connect(one_by_one, isolation_level=None)) as database:
        for event in TOLD:
            folded(database, [event])
    assert digest(one_by_one) == whole

    built = Building(tmp_path / "built", STREAM)
    built.take(addressed(TOLD))
    built.finish()
    assert digest(tmp_path / "built") == whole
    assert (
        digest(tmp_path / "built", "PRAGMA page_size = 1024", "PRAGMA journal_mode = DELETE", "VACUUM")
        == whole
    )


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO counts VALUES ('image', 'nobody', 'DONE', 0)",
        "INSERT INTO lane_depths VALUES ('image.none.normal.1', 0)",
        "INSERT INTO queues VALUES ('image', 'none', 0, 0, 0, 0)",
        "INSERT INTO forgotten VALUES (1)",
        "DELETE FROM moments",
        "INSERT INTO moments VALUES (17, X'5B5D')",
        "UPDATE checkpoint SET ignored = ignored + 1",
    ],
)
def test_what_is_no_fact_makes_no_difference(tmp_path: Path, change: str) -> None:
    file = made(tmp_path / "m", TOLD)
    assert digest(file) == digest(file, change)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tasks SET doc = CAST(doc || ' ' AS BLOB) WHERE number = 1",
        "UPDATE tasks SET state = NULL",
        "UPDATE tags SET tag = 'other' WHERE number = 1 AND tag = 'all'",
        "DELETE FROM tags WHERE number = 1",
        "UPDATE events SET status = 'DONE' WHERE sequence = 1",
        "DELETE FROM events WHERE sequence = (SELECT max(sequence) FROM events)",
        "UPDATE batches SET done = done + 1 WHERE number = 1",
        "UPDATE counts SET n = n + 1 WHERE tenant = '*' AND status = 'DONE'",
        "UPDATE lane_depths SET n = n + 1",
        "UPDATE queues SET running = running + 1",
    ],
)
def test_every_other_row_makes_a_difference(tmp_path: Path, change: str) -> None:
    file = made(tmp_path / "m", TOLD)
    assert digest(file) != digest(file, change)
