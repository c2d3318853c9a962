"""How far off the times were that waiting tasks were given, once they have ended.

The one rule: the first time that a task was given counts, however much better the later ones were.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from statistics import median, quantiles
from typing import Final, Generic, NamedTuple, TypeVar

from msgspec import Struct

LAST: Final = 500
"""Of so many tasks of a queue the errors are kept."""
MOST: Final = 20_000
"""So many tasks that have not ended are kept in mind, those foretold last."""

_SHORTEST_S: Final = 1.0

_Queue = TypeVar("_Queue", bound=Hashable)


class EtaError(Struct, frozen=True):
    """How far the first ``eta_at`` was off, as a part of the time from then to the end."""

    median: float
    p90: float
    tasks: int


class _Foretold(NamedTuple, Generic[_Queue]):
    queue: _Queue
    asked_at: float
    end_at: float


class Hindsight(Generic[_Queue]):
    """Times in seconds of any one clock."""

    def __init__(self) -> None:
        self._foretold: OrderedDict[str, _Foretold[_Queue]] = OrderedDict()  # whose first is found at once
        self._errors: dict[_Queue, deque[float]] = {}

    def note(self, task_id: str, queue: _Queue, asked_at: float, end_at: float) -> None:
        """Keep what was foretold of a task, if it is the first time."""
        if task_id in self._foretold:
            return
        self._foretold[task_id] = _Foretold(queue, asked_at, end_at)
        if len(self._foretold) > MOST:
            self._foretold.popitem(last=False)

    def noted(self, task_id: str) -> bool:
        return task_id in self._foretold

    def drop(self, task_id: str) -> None:
        """Forget a task that did not come to the end that was foretold."""
        self._foretold.pop(task_id, None)

    def done(self, task_id: str, at: float) -> None:
        """Compare. A task that took less than a second is held to a second."""
        foretold = self._foretold.pop(task_id, None)
        if foretold is None:
            return
        took_s = max(at - foretold.asked_at, _SHORTEST_S)
        errors = self._errors.setdefault(foretold.queue, deque(maxlen=LAST))
        errors.append(abs(foretold.end_at - at) / took_s)

    def error(self, queue: _Queue) -> EtaError | None:
        """Give how far off the last were, None before there is any."""
        errors = self._errors.get(queue)
        if not errors:
            return None
        p90 = quantiles(errors, n=10, method="inclusive")[-1] if len(errors) > 1 else errors[0]
        return EtaError(round(median(errors), 3), round(p90, 3), len(errors))
