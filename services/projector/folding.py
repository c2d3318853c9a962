"""Folding into an open database: the rows that a fold starts from, and those that it gives.

The one rule: rows and checkpoint are committed together. Runs on the thread that owns the connection.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from schemas import readmodel, views, writing
from schemas.events import Recorded
from schemas.ids import TaskId
from schemas.subjects import Address, address_of
from schemas.task import fold as fold_task
from services.projector.projections import Fold
from services.projector.rows import Known, Row, decode_state
from services.projector.tallies import MOMENT

Statement = tuple[str, Iterable[Row]]
Told = tuple[Address | None, Recorded]
"""An event and whose it is."""


class Folded(NamedTuple):
    """How many events were ignored, and whether any took a task's content away."""

    ignored: int
    erased: bool


def fold_into(database: sqlite3.Connection, told: list[Told], up_to: int) -> Folded:
    """Fold events and commit them with the checkpoint."""
    with transaction(database):  # also around what is read, each of which would else be one of its own
        fold = _fold_from(database, up_to)
        for address, event in told:
            if address is not None and fold.missing(event.task_id):
                fold.remember(event.task_id, _load(database, event.task_id))
            fold.apply(event, address)
        if fold.erased:
            database.execute("PRAGMA secure_delete=ON").fetchall()
        write(database, (*written(fold), (writing.SET_CHECKPOINT, [(up_to, fold.ignored, up_to)])))
    if fold.erased:
        database.execute("PRAGMA secure_delete=OFF").fetchall()
    return Folded(fold.ignored, bool(fold.erased))


def written(fold: Fold) -> Iterator[Statement]:
    """Give all that a fold has to say, in the order in which it is to be written."""
    yield writing.UPSERT_TASK, fold.tasks()
    yield writing.INSERT_TAG, fold.tags
    yield writing.INSERT_EVENT, fold.events
    yield writing.DELETE_EVENTS, fold.erased
    yield writing.FORGET, ((number,) for number, _ in fold.erased)
    yield writing.DELETE_PROGRESS, fold.not_running()
    tallies = fold.tallies
    yield writing.ADD_COUNT, tallies.counts()
    yield writing.ADD_LANE_DEPTH, tallies.depths()
    yield writing.ADD_QUEUE, tallies.queues()
    yield writing.ADD_BATCH, tallies.batches()
    yield writing.END_BATCH, tallies.ended_batches()
    yield writing.INSERT_MOMENT, tallies.moments


def in_transaction(database: sqlite3.Connection, statements: Iterable[Statement]) -> None:
    with transaction(database):
        write(database, statements)


def write(database: sqlite3.Connection, statements: Iterable[Statement]) -> None:
    for statement, rows in statements:
        database.executemany(statement, rows)


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Commit what is done inside, or nothing of it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def _fold_from(database: sqlite3.Connection, last: int) -> Fold:
    """Begin a fold where the file is; how the queues stand is read only if it comes past a moment."""
    [(sequence, *_)] = database.execute(readmodel.GET_CHECKPOINT).fetchall()
    rows = database.execute(writing.GET_QUEUES) if sequence // MOMENT != last // MOMENT else ()
    return Fold(sequence, {(kind, model): numbers for kind, model, *numbers in rows})


def _load(database: sqlite3.Connection, task_id: TaskId) -> Known | None:
    row = database.execute(readmodel.GET_STATE, (task_id,)).fetchone()
    if row is None:
        return None
    number, prefix, state = row
    address = address_of(prefix)
    if state is not None:
        return Known(number, decode_state(state), address)
    # Little follows an end, so of what ended the state is not kept beside its events.
    wires = database.execute(readmodel.HISTORY_OF_TASK, (number,)).fetchall()
    return Known(number, fold_task(task_id, (views.recorded(wire) for (wire,) in wires)), address)
