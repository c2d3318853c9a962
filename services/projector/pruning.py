"""Finished tasks that have been kept for long enough leave the read model.

The one rule: all that is known of a task goes in one transaction, and what is left adds up: the counts are
of the tasks that are there, and after ``checkpoint.pruned`` the past is whole.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import structlog

from schemas import envelope, upkeep, writing
from services import clock
from services.projector.folding import Statement, in_transaction
from services.projector.rows import Row
from services.projector.tallies import EVERY_TENANT

log = structlog.get_logger()

AT_ONCE: Final = 200
EVERY_S: Final = 60.0
# Between two transactions there is time for some batches of the fold, which waits for the same thread.
PAUSE_S: Final = 0.05


class _Leaving(NamedTuple):
    """A task as FINISHED_BEFORE gives it; ``sequence`` is its last event's."""

    number: int
    kind: str
    tenant: str
    status: str
    batch: str | None
    sequence: int


async def keep_pruned(prune: Callable[[datetime, int], Awaitable[int]], keep: timedelta) -> None:
    """Let go of what finished longer ago, now and every minute; runs until it is cancelled.

    ``prune``: drops so many at most that finished before then, and says how many, as ``Store.prune``.
    """
    while True:
        before, gone = clock.now() - keep, 0
        while some := await prune(before, AT_ONCE):
            gone += some
            await asyncio.sleep(PAUSE_S)
        if gone:
            log.info("tasks.pruned", count=gone, finished_before=envelope.timestamp(before))
        await asyncio.sleep(EVERY_S)


def drop_finished(database: sqlite3.Connection, before: datetime, most: int) -> int:
    """Drop the tasks that finished first, if it was before then; how many there were, 0 for no more."""
    end = envelope.timestamp(before)
    leaving = [_Leaving(*row) for row in database.execute(upkeep.FINISHED_BEFORE, (end, most))]
    if leaving:
        in_transaction(database, _dropped(leaving, end))
    return len(leaving)


def _dropped(leaving: list[_Leaving], before: str) -> Iterator[Statement]:
    """Give all that has to be written."""
    numbers = [(task.number,) for task in leaving]
    last = max(task.sequence for task in leaving)
    yield upkeep.DROP_TAGS, numbers
    yield upkeep.DROP_EVENTS, numbers
    yield upkeep.DROP_TASK, numbers
    yield writing.FORGET, numbers
    yield writing.ADD_COUNT, _fewer(leaving)
    yield writing.SET_PRUNED, [(last,)]
    # Counted on from an earlier moment, what has gone would stay in its queue for ever. Without one, queues
    # are counted from the beginning, where only tasks are left that ended later or not at all.
    yield upkeep.DROP_MOMENTS, [(last,)]
    yield upkeep.DROP_BATCH, [(batch, before) for batch in {task.batch for task in leaving} if batch]


def _fewer(leaving: list[_Leaving]) -> Iterator[Row]:
    """Give by how much the counts change: kind, tenant or every tenant, status."""
    changes: Counter[Row] = Counter()
    for task in leaving:
        changes[task.kind, task.tenant, task.status] -= 1
        changes[task.kind, EVERY_TENANT, task.status] -= 1
    return ((*key, change) for key, change in changes.items())
