"""A read model built in one go is the one that folding the same log makes, row for row."""

import contextlib
import itertools
import sqlite3
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import readmodel, writing
from schemas.events import Recorded
from schemas.subjects import Address
from services.projector import building
from services.projector.building import Building
from services.projector.folding import Told, fold_into
from services.projector.rows import Row
from tests.builders import LANE, TASK, history, started, submitted
from tests.strategies import remembered
from tests.unit.test_projections import logs

STREAM = "2026-11-24T09:00:00Z"
TABLES = (
    "SELECT * FROM checkpoint",
    "SELECT * FROM tasks ORDER BY number",
    "SELECT * FROM tags ORDER BY tag, number",
    "SELECT * FROM events ORDER BY sequence",
    "SELECT * FROM batches ORDER BY batch_id",
    "SELECT * FROM counts WHERE n <> 0 ORDER BY kind, tenant, status",
    "SELECT * FROM lane_depths WHERE n <> 0 ORDER BY lane",
    "SELECT * FROM queues WHERE scheduled + queued + retrying + running <> 0 ORDER BY kind, model",
    "SELECT * FROM moments ORDER BY sequence",
    "SELECT * FROM forgotten ORDER BY number",
)


def told(log: Iterable[Recorded]) -> list[Told]:
    return [(Address(LANE, one.task_id), one) for one in log]


def content(file: Path) -> list[list[Row]]:
    with contextlib.closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [database.execute(table).fetchall() for table in TABLES]


def folded(file: Path, log: list[Recorded], cuts: list[int]) -> list[list[Row]]:
    """Fold a log as it comes, cut into batches."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.executescript(readmodel.TABLES + readmodel.INDEXES)
        database.execute(writing.INIT_CHECKPOINT, (0, STREAM, readmodel.SCHEMA_VERSION))
        for begin, end in itertools.pairwise([0, *sorted(cuts), len(log)]):
            if batch := told(log[begin:end]):
                fold_into(database, batch, batch[-1][1].sequence)
    return content(file)


def built(file: Path, log: list[Recorded], cuts: list[int]) -> list[list[Row]]:
    """Build the same in one go, whatever is received at a time."""
    making = Building(file, STREAM)
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(log)]):
        making.take(told(log[begin:end]))
    assert making.finish() == (log[-1].sequence if log else 0)
    return content(file)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=logs() | logs().map(remembered), data=st.data())
def test_what_is_built_is_what_is_folded(
    monkeypatch: pytest.MonkeyPatch, log: list[Recorded], data: st.DataObject
) -> None:
    places = st.lists(st.integers(0, len(log)), max_size=5)
    monkeypatch.setattr(building, "AT_ONCE", data.draw(st.integers(1, 10)))
    monkeypatch.setattr(building, "_TAGS", data.draw(st.integers(0, 2)))
    with tempfile.TemporaryDirectory() as folder:
        one_by_one = folded(Path(folder, "folded"), log, data.draw(places))
        in_one_go = built(Path(folder, "built"), log, data.draw(places))

    assert in_one_go == one_by_one


def test_a_task_that_has_not_ended_goes_on_where_the_build_ended(tmp_path: Path) -> None:
    begun, went_on = history(submitted(), started())
    making = Building(tmp_path / "built", STREAM)
    making.take(told([begun]))
    making.finish()
    with contextlib.closing(sqlite3.connect(tmp_path / "built", isolation_level=None)) as database:
        fold_into(database, told([went_on]), went_on.sequence)
        [row] = database.execute("SELECT task_id, status, sequence FROM tasks").fetchall()

    assert row == (TASK, "RUNNING", went_on.sequence)


def test_an_empty_log_builds_an_empty_read_model(tmp_path: Path) -> None:
    assert built(tmp_path / "built", [], []) == folded(tmp_path / "folded", [], [])
