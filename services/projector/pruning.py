"""Finished tasks that have been kept for long enough leave the read model.

The one rule: everything that is known of a task goes in one transaction, and what is left adds up: the counts
are of the tasks that are there, and from ``checkpoint.pruned`` on the past is whole.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec
import structlog

from schemas import envelope, readmodel, upkeep
from services import clock
from services.projector.folding import Statement, in_transaction
from services.projector.rows import Row, encode
from services.projector.tallies import EVERY_TENANT, IN_QUEUE

log = structlog.get_logger()

AT_ONCE: Final = 200
EVERY_S: Final = 60.0
# Between two transactions there is time for some batches of the fold, which waits for the same thread.
PAUSE_S: Final = 0.05
_decode_queues: Final = msgspec.json.Decoder(list[tuple[str, str, int, int, int, int]]).decode


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
        in_transaction(database, _dropped(database, leaving, end))
    return len(leaving)


def _dropped(database: sqlite3.Connection, leaving: list[_Leaving], before: str) -> Iterator[Statement]:
    """Give all that has to be written, in this order: how the queues stood cannot be told afterwards."""
    numbers = [(task.number,) for task in leaving]
    last = max(task.sequence for task in leaving)
    [(pruned,)] = database.execute(readmodel.PRUNED).fetchall()
    if last > pruned:
        yield readmodel.INSERT_MOMENT, [(last, _stood(database, last))]
        yield upkeep.DROP_MOMENTS, [(last,)]
        yield readmodel.SET_PRUNED, [(last,)]
    yield upkeep.DROP_TAGS, numbers
    yield upkeep.DROP_EVENTS, numbers
    yield upkeep.DROP_TASK, numbers
    yield readmodel.FORGET, numbers
    yield readmodel.ADD_COUNT, _fewer(leaving)
    yield upkeep.DROP_BATCH, [(batch, before) for batch in {task.batch for task in leaving} if batch]


def _fewer(leaving: list[_Leaving]) -> Iterator[Row]:
    """Give by how much the counts change: kind, tenant or every tenant, status."""
    changes: Counter[Row] = Counter()
    for task in leaving:
        changes[task.kind, task.tenant, task.status] -= 1
        changes[task.kind, EVERY_TENANT, task.status] -= 1
    return ((*key, change) for key, change in changes.items())


def _stood(database: sqlite3.Connection, sequence: int) -> bytes:
    """Work out how the queues stood right after an event, as a moment has it.

    Later moments are counted on from here, since moves up to here are about to be lost.
    """
    start, noted = database.execute(readmodel.LAST_MOMENT, (sequence,)).fetchone() or (0, b"[]")
    counts: Counter[tuple[str, str, str | None]] = Counter()
    for kind, model, *numbers in _decode_queues(noted):
        counts.update({(kind, model, status): n for status, n in zip(IN_QUEUE, numbers, strict=True)})
    for kind, model, was, became in database.execute(readmodel.MOVES, (start, sequence)):
        counts[kind, model, was] -= 1
        counts[kind, model, became] += 1
    queues = sorted({(kind, model) for kind, model, _ in counts})
    rows = [[*queue, *(counts[*queue, status] for status in IN_QUEUE)] for queue in queues]
    return encode([row for row in rows if any(row[2:])])
