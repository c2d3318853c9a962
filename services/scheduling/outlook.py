"""When the waiting tasks of a kind should be done: the line laid out over the GPUs, as it would be served.

The one rule: it foretells and decides nothing. It takes turns, speeds and loads as the dispatchers do, and
leaves out ageing and what sets one policy apart from another.
"""

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Final, NamedTuple

from msgspec import Struct, field

from schemas.requests import Priority
from schemas.standing import Why
from schemas.subjects import Lane
from services.scheduling.fairness import Priorities, weight
from services.scheduling.moment import Moment, Run, Slots

MOST: Final = 1000
"""How many tasks of a kind are looked at; those behind them are foretold by the rate."""

_IN_REACH: Final = frozenset({Why.WAITING_FOR_SLOT, Why.TENANT_CAP, Why.RETRY_DELAY})
_EVERY: Final = tuple(map(str, Priority))


class Waiting(NamedTuple):
    """A task in line. ``number`` is in order of submission; ``due_s`` seconds until it may start."""

    number: int
    lane: Lane
    tenant: str
    units: float
    due_s: float = 0.0


class Lineup(Struct, frozen=True, kw_only=True):
    """A kind's line: the ``first`` of it by priority and number; how many wait by priority and by lane."""

    first: Sequence[Waiting] = ()
    counts: Mapping[str, int] = {}
    depths: Mapping[str, int] = {}


class _Turn(NamedTuple):
    """A task and the seconds of work that its lane has had before it, which is when its turn comes."""

    before_s: float
    task: Waiting
    seconds: float


class _Queue(Struct):
    """What was laid out of a queue at one priority: the turn and the start of each task, in order."""

    turns_s: list[float] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)


class Outlook:
    """Of one kind; complete once ``steps`` has been gone through."""

    def __init__(self, moment: Moment, lineup: Lineup, priorities: Priorities = "strict") -> None:
        self.moment = moment
        self._lineup = lineup
        self._priorities = priorities
        self._looked = Counter(task.lane.priority for task in lineup.first)
        self._seen = Counter(task.lane for task in lineup.first)
        self._work_s: dict[Lane, float] = {}
        self._means_s: dict[str, float] = {}
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._slots = Slots.now(moment)
        self._behind: dict[str, Slots] = {}
        self._charged_s = 0.0
        self._starts_s: dict[str | None, float] = {}
        self.runs: dict[int, Run] = {}
        """By number, of what was laid out."""

    def steps(self, size: int) -> Iterator[None]:
        """Lay the line out, pausing after each ``size`` tasks."""
        turns = {}
        for priority in _EVERY:
            turns[priority] = self._in_turn(priority)
            yield
        last = {queue[-1].task.number for queue in turns.values() if queue}
        for count, turn in enumerate(self._ordered(turns), start=1):
            self._lay(turn)
            if turn.task.number in last:
                self._behind[turn.task.lane.priority] = self._slots.copy()
            if count % size == 0:
                yield

    def _in_turn(self, priority: str) -> list[_Turn]:
        """Order a priority's tasks as its lanes take turns: who has had the least work goes next."""
        turns: list[_Turn] = []
        for task in self._lineup.first:
            lane = task.lane
            if lane.priority != priority or self.moment.why(lane, task.tenant) not in _IN_REACH:
                continue
            before_s = self._work_s.get(lane, 0.0)
            seconds = task.units * self._unit_s(lane.model)
            turns.append(_Turn(before_s, task, seconds))
            self._work_s[lane] = before_s + seconds
        return sorted(turns, key=lambda turn: (turn.before_s, turn.task.number))

    def _ordered(self, turns: Mapping[str, Sequence[_Turn]]) -> Iterable[_Turn]:
        if self._priorities == "strict":
            return chain.from_iterable(turns.values())
        shared = [_shared(queue, weight(priority)) for priority, queue in turns.items()]
        return (turn for _, turn in heapq.merge(*shared, key=lambda item: item[0]))

    def _lay(self, turn: _Turn) -> None:
        _, task, seconds = turn
        run = self._slots.lay(task.lane.model, task.units, task.tenant, task.due_s)
        if run is None:
            return
        self.runs[task.number] = run
        self._charged_s += seconds
        queue = self._queues.setdefault((task.lane.model, task.lane.priority), _Queue())
        queue.turns_s.append(turn.before_s)
        queue.starts_s.append(run.start_s)
        for whose in (None, task.tenant):
            self._starts_s[whose] = min(run.start_s, self._starts_s.get(whose, run.start_s))

    def _unit_s(self, model: str) -> float:
        """Give what a unit of a model takes, by the GPU that is fastest at it; it weighs the turns."""
        if model not in self._means_s:
            self._means_s[model] = self.moment.run_s(model, 1.0) or 1.0
        return self._means_s[model]

    def end_s(self, task: Waiting, position: int | None = None) -> float | None:
        """Foretell the end of a task, None where nobody can tell.

        One that was not laid out is new, or far behind; its ``position`` says how far.
        """
        if not self.moment.foretells or self.moment.why(task.lane, task.tenant) not in _IN_REACH:
            return None
        run = self.runs.get(task.number)
        if run is not None:
            return run.end_s
        unseen = max(0, (position or 0) - 1 - self._looked[task.lane.priority])
        start_s = self._start_in_turn(task, unseen)
        if start_s is not None:
            ready_s = self._slots.ready_s(task.tenant, task.due_s)
            return max(start_s, ready_s) + (self.moment.run_s(task.lane.model, task.units) or 0.0)
        return self.end_behind_s(task, unseen)

    def _start_in_turn(self, task: Waiting, unseen: int) -> float | None:
        """Give the start of whoever has the task's turn, None where it comes behind all laid out."""
        lane = task.lane
        queue = self._queues.get((lane.model, lane.priority))
        if queue is None:
            return None
        ahead = min(unseen, max(0, self._lineup.depths.get(lane.name, 0) - self._seen[lane]))
        seconds = task.units * self._unit_s(lane.model)
        turn_s = self._work_s.get(lane, 0.0) + ahead * seconds
        index = bisect_left(queue.turns_s, turn_s)
        return queue.starts_s[index] if index < len(queue.turns_s) else None

    def end_behind_s(self, task: Waiting, unseen: int | None = None) -> float | None:
        """Foretell the end of a task behind all of its priority, of whom ``unseen`` were not laid out."""
        if not self.moment.foretells or self.moment.why(task.lane, task.tenant) not in _IN_REACH:
            return None
        priority = task.lane.priority
        run = self._after(priority).soonest(task.lane.model, task.units, task.tenant, task.due_s)
        if run is None:
            return None
        if unseen is None:
            unseen = self._unseen(priority)
        before = _EVERY[: _EVERY.index(priority)] if priority in _EVERY else _EVERY
        return run.end_s + self._pace_s * (unseen + sum(map(self._unseen, before)))

    def start_s(self, tenant: str | None = None) -> float | None:
        """Say when the next waiting task starts, or the next of one tenant; None where nobody can tell."""
        return self._starts_s.get(tenant) if self.moment.foretells else None

    def _unseen(self, priority: str) -> int:
        return max(0, self._lineup.counts.get(priority, 0) - self._looked[priority])

    def _after(self, priority: str) -> Slots:
        """Give the slots as they are once all of a priority, and those before it, have been laid out."""
        rank = _EVERY.index(priority) if priority in _EVERY else len(_EVERY) - 1
        found = (self._behind[p] for p in reversed(_EVERY[: rank + 1]) if p in self._behind)
        return next(found, self._before)

    @cached_property
    def _before(self) -> Slots:
        """Give the slots as they are before anything is laid out."""
        return Slots.now(self.moment)

    @property
    def _pace_s(self) -> float:
        """Give the time in which the kind's GPUs together do a task, as those laid out are."""
        slots = sum(gpu.slots for gpu in self.moment.gpus)
        return self._charged_s / (len(self.runs) * slots) if self.runs and slots else 0.0


def _shared(turns: Sequence[_Turn], share: float) -> Iterator[tuple[float, _Turn]]:
    """Give each task with the work of its priority before it, over the priority's share of the time."""
    before_s = 0.0
    for turn in turns:
        yield before_s, turn
        before_s += turn.seconds / share
