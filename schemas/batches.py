"""Tasks that were submitted together, and what actions on many tasks answer.

The one rule: the numbers add up to ``matched``, so that nobody has to guess what was left.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from schemas import envelope
from schemas.errors import Code
from schemas.ids import BatchId, TaskId
from schemas.task import FINAL, Status, Task
from schemas.views import API

MOST_CANCELLED: Final = 10_000
MOST_REDRIVEN: Final = 1_000
SHOWN: Final = 1_000
"""Of how many tasks one answer gives the ids."""


COUNTED: Final = tuple(status for status in Status if status is not Status.ABSENT)
"""What a batch counts, in the order of the columns of ``readmodel.GET_BATCH``."""


class BatchLinks(Struct, frozen=True, rename={"own": "self"}):
    own: str
    tasks: str
    events: str
    cancel: str


class AcceptedBatch(Struct, frozen=True, kw_only=True):
    """``task_ids`` in the order of the body."""

    batch_id: BatchId
    size: int
    task_ids: tuple[TaskId, ...]
    status_url: str
    tasks_url: str
    events_url: str
    cancel_url: str


class BatchView(Struct, frozen=True, kw_only=True):
    """``counts``: how many of its tasks are in each status. ``finished_at``: when the last one ended.

    ``user`` is that of the first task, ``sequence`` that of the last event of any of them.
    """

    batch_id: BatchId
    tenant: str
    user: str | None
    size: int
    counts: Mapping[str, int]
    submitted_at: str
    finished_at: str | None
    links: BatchLinks
    sequence: int

    @property
    def whole(self) -> bool:
        """Whether every one of its tasks is counted."""
        return sum(self.counts.values()) == self.size


def links(batch_id: BatchId) -> BatchLinks:
    url = f"{API}/batches/{batch_id}"
    return BatchLinks(url, f"{API}/tasks?batch={batch_id}", f"{url}/events", f"{url}/cancel")


def accepted(batch_id: BatchId, task_ids: Iterable[TaskId]) -> AcceptedBatch:
    made, urls = tuple(task_ids), links(batch_id)
    return AcceptedBatch(
        batch_id=batch_id,
        size=len(made),
        task_ids=made,
        status_url=urls.own,
        tasks_url=urls.tasks,
        events_url=urls.events,
        cancel_url=urls.cancel,
    )


def from_row(row: Sequence[Any]) -> BatchView:  # Any: of each column
    """Read a row of ``readmodel.GET_BATCH``."""
    batch_id, sequence, tenant, user, size, submitted_at, finished_at, *counts = row
    return BatchView(
        batch_id=batch_id,
        tenant=tenant,
        user=user,
        size=size,
        counts=dict(zip(COUNTED, counts, strict=True)),
        submitted_at=submitted_at,
        finished_at=finished_at,
        links=links(batch_id),
        sequence=sequence,
    )


def from_tasks(batch_id: BatchId, tasks: Sequence[Task]) -> BatchView | None:
    """Count the tasks themselves, in the order of their places; None where the first cannot be read."""
    made = tasks[0].submission
    if made is None or made.batch is None:
        return None
    statuses = [task.status for task in tasks]
    ends = [task.finished_at for task in tasks if task.finished_at and task.status in FINAL]
    return BatchView(
        batch_id=batch_id,
        tenant=made.tenant,
        user=made.user,
        size=made.batch.size,
        counts={status: statuses.count(status) for status in COUNTED},
        submitted_at=_spelled(tasks[0].submitted_at) or "",
        finished_at=_spelled(max(ends)) if len(ends) == made.batch.size else None,
        links=links(batch_id),
        sequence=max(task.sequence for task in tasks),
    )


def _spelled(at: datetime | None) -> str | None:
    return envelope.timestamp(at) if at else None


class CancelledMany(Struct, frozen=True, kw_only=True):
    """``unchanged``: known to the read model and no more to the log. ``more``: send the same again.

    ``task_ids`` are those that were cancelled, at most 1,000.
    """

    matched: int
    cancelled: int
    already_finished: int
    unchanged: int
    more: bool
    task_ids: tuple[TaskId, ...]


class Redriven(Struct, frozen=True):
    """A new task, and the one that it stands in for."""

    task_id: TaskId
    origin: TaskId


class Refused(Struct, frozen=True):
    """A task that could not be made again, and why."""

    origin: TaskId
    code: Code
    detail: str


class RedrivenMany(Struct, frozen=True, kw_only=True):
    """``already_redriven``: by somebody else in the meantime. ``more``: send the same again.

    ``stopped``: what was full, where that is why. ``tasks`` are at most 1,000, ``refusals`` at most 100.
    """

    matched: int
    made: int
    already_redriven: int
    refused: int
    more: bool
    stopped: Code | None
    tasks: tuple[Redriven, ...]
    refusals: tuple[Refused, ...]
