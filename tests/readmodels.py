"""Read models made without a server, of events that a test makes up."""

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from schemas import readmodel, writing
from schemas.events import Recorded, TaskEvent
from schemas.ids import BatchId, TaskId
from schemas.requests import InBatch
from schemas.subjects import Address, Lane
from services.projector.folding import Told, fold_into
from tests.builders import attempt_failed, cancelled, done, failed, record, started, submitted

STREAM = "2026-11-24T00:00:00Z"
LANES = [Lane("image", model, "normal", 1) for model in ("any", "flux")]
STORIES: list[tuple[TaskEvent, ...]] = [
    (started(), done()),
    (cancelled(),),
    (started(), failed()),
    (started(), attempt_failed(), started(2), done(2)),
    (),
    (started(),),
]


def task_id(number: int) -> TaskId:
    return TaskId(f"0199d4e8-7c1a-7000-8000-{number:012x}")


def batch_id(number: int) -> BatchId:
    return BatchId(f"0199d4e8-7c1a-7000-9000-{number:012x}")


def lived(tasks: int, *, at_once: int = 7, batch: int = 10) -> list[Recorded]:
    """Let tasks live, some of them at once; each is one of a batch, in its tenant, and has tags."""
    told: list[Recorded] = []
    living: list[tuple[TaskId, list[TaskEvent]]] = []
    number = 0
    while number < tasks or any(story for _, story in living):
        if number < tasks and len(living) < at_once:
            place = InBatch(batch_id=batch_id(number // batch), size=batch, place=number % batch)
            tags = (f"tag-{number % 3}", "all")
            made = submitted(tenant=f"tenant-{number % 2}", tags=tags, batch=place)
            living.append((task_id(number), [made, *STORIES[number % len(STORIES)]]))
            number += 1
        whose, story = living.pop(0)
        if story:
            told.append(record(story.pop(0), len(told) + 1, task_id=whose))
            living.append((whose, story))
    return told


def made(path: Path, told: Iterable[Recorded] = (), stream: str = STREAM) -> Path:
    """Make a file; it is folded to the last of the events."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL").fetchall()
    database.executescript(readmodel.TABLES + readmodel.INDEXES)
    database.execute(writing.INIT_CHECKPOINT, (0, stream, readmodel.SCHEMA_VERSION))
    folded(database, told)
    database.close()
    return path


def addressed(told: Iterable[Recorded]) -> Iterator[Told]:
    """Say which queue each event's task is in, always the same."""
    for event in told:
        lane = LANES[int(event.task_id[-1], 16) % len(LANES)]
        yield Address(lane, event.task_id), event


def folded(database: sqlite3.Connection, told: Iterable[Recorded]) -> None:
    """Fold on, in one batch."""
    batch = list(addressed(told))
    if batch:
        fold_into(database, batch, batch[-1][1].sequence)
