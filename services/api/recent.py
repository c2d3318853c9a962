"""What this process appended or showed in the last half minute, so that nobody is shown less after that.

The one rule: bounded in time and in number; forgetting costs freshness and never truth.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from schemas.ids import TaskId

KEEP_S: Final = 30.0
MOST: Final = 50_000


class Recent:
    """``now`` is any clock in seconds that never steps back."""

    def __init__(self, now: Callable[[], float], keep_s: float = KEEP_S, most: int = MOST) -> None:
        self._now = now
        self._keep_s = keep_s
        self._most = most
        self._noted: OrderedDict[TaskId, tuple[int, float]] = OrderedDict()  # its first is found at once

    def note(self, task_id: TaskId, sequence: int) -> None:
        now = self._now()
        self._noted.pop(task_id, None)
        self._noted[task_id] = (sequence, now + self._keep_s)
        while (oldest := next(iter(self._noted))) != task_id:
            if len(self._noted) <= self._most and self._noted[oldest][1] > now:
                break
            del self._noted[oldest]

    def sequence(self, task_id: TaskId) -> int:
        """Give the sequence a reader must have reached, 0 where anything will do."""
        noted = self._noted.get(task_id)
        return noted[0] if noted is not None and noted[1] > self._now() else 0
