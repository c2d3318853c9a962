"""When a failed or handed-back attempt is tried again. Jitter comes from the attempt, so it repeats."""

import hashlib
from datetime import timedelta
from typing import Final

from msgspec import Struct

from schemas.ids import TaskId

HANDBACK_FIRST: Final = timedelta(seconds=1)
HANDBACK_CAP: Final = timedelta(seconds=60)
_DOUBLINGS: Final = 20


class RetryPolicy(Struct, frozen=True):
    base: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(seconds=60)


def retry_delay(policy: RetryPolicy, task_id: TaskId, counted: int) -> timedelta:
    """Give the pause after the ``counted``-th try that failed: exponential, with full jitter."""
    ceiling: timedelta = min(policy.cap, policy.base * (1 << min(counted - 1, _DOUBLINGS)))
    return ceiling * spread(task_id, counted)


def handback_delay(handbacks: int) -> timedelta:
    """Give the pause of a task that was handed back without blame, 1 to 60 s."""
    return min(HANDBACK_CAP, HANDBACK_FIRST * (1 << min(handbacks - 1, _DOUBLINGS)))


def spread(task_id: TaskId, number: int) -> float:
    """Map an attempt to a stable point in [0, 1).

    No checksum does: under CRC-32 tasks that met at one try would meet at every later one.
    """
    return int.from_bytes(hashlib.sha256(f"{task_id}:{number}".encode()).digest()[:4], "big") / 2**32
