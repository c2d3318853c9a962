"""The only place that reads the wall clock, mints ids and draws chance."""

import random
import time
from datetime import UTC, datetime

from uuid_utils import uuid4, uuid7

from schemas.ids import BatchId, EventId, TaskId
from schemas.requests import MAX_SEED


def now() -> datetime:
    return datetime.now(UTC)


def monotonic() -> float:
    """Give seconds that never step back. An event loop's own clock may move in whole milliseconds."""
    return time.monotonic()


def new_task_id() -> TaskId:
    """Mint a UUID of version 7: sortable by the time of its making."""
    return TaskId(str(uuid7()))


def new_event_id() -> EventId:
    return EventId(str(uuid7()))


def new_batch_id() -> BatchId:
    return BatchId(str(uuid7()))


def new_name() -> str:
    """Mint 32 hex digits that nobody can guess, for uploads and instances."""
    return uuid4().hex


def new_seed() -> int:
    """Draw a picture's seed."""
    return random.randint(0, MAX_SEED)  # noqa: S311 - a seed is no secret
