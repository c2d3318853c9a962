"""When the waiting tasks of a kind should be done: the line laid out over the GPUs, as it would be served.

The one rule: it foretells and decides nothing. It takes turns, speeds and loads as the dispatchers do, and
leaves out ageing, what sets one policy apart from another, and a task's wish for one backend.

Times are seconds from the moment that was looked at. Who asks later says so, ``after_s``: what has not
begun by then begins then at the earliest.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final, NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from schemas.requests import Priority
from schemas.standing import Why
from schemas.subjects import Lane
from services.scheduling.fairness import Order, Priorities, Turns
from services.scheduling.moment import Moment, Run, Slots
from services.scheduling.situation import Line

MOST: Final = 1000
"""How many tasks of a kind are looked at; those behind them are foretold by the rate."""
FEW: Final = 50
"""A line of so many is laid out anew for one who has just come; in a longer one that takes too long."""

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


class Onlooker:
    """Whose turn it is in a kind, for one who sees now and then who waits and what runs.

    What a task is expected to take is charged when it is first seen to run.
    """

    def __init__(self, kind: str, priorities: Priorities = "strict") -> None:
        self._kind = kind
        self.turns = Turns(priorities)
        self._running: frozenset[str] = frozenset()

    def ran(self, running: Mapping[str, tuple[Lane, float]]) -> None:
        """Take in what runs, by task: its lane and how many seconds it was expected to take."""
        begun = [running[task_id] for task_id in running.keys() - self._running]
        self._running = frozenset(running)
        if begun:  # they waited a moment ago
            self.turns.admit({lane: Line(lane=lane) for lane, _ in begun})
        for lane, seconds in begun:
            self.turns.serve(lane, seconds)

    def order(self, lanes: Mapping[Lane, Sequence[Waiting]]) -> Order:
        """Take in who waits, and give the order of it."""
        self.turns.admit_only(self._kind, (Line(lane=lane) for lane in lanes))
        return self.turns.order(self._kind, now=0.0).copy()


class _Queue(Struct):
    """What was laid out of a queue at one priority, in order: each task's turn, units and run.

    A turn is how much work the lane has had before, in seconds: who has had the least goes next.
    """

    turns_s: list[float] = field(default_factory=list)
    units: list[float] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)


class Outlook:
    """Of one kind; complete once ``steps`` has been gone through."""

    def __init__(self, moment: Moment, lineup: Lineup, onlooker: Onlooker) -> None:
        self.moment = moment
        self._lineup = lineup
        self._onlooker = onlooker
        self._looked = Counter(task.lane.priority for task in lineup.first)
        self._seen = Counter(task.lane for task in lineup.first)
        self._work_s: dict[Lane, float] = {}
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._slots = Slots.now(moment)
        self._behind: dict[str, Slots] = {}
        self._charged_s = 0.0
        self._starts_s: dict[str | None, float] = {}
        self.runs: dict[int, Run] = {}
        """By number, of what was laid out."""

    def steps(self, size: int) -> Iterator[None]:
        """Lay the line out, pausing after each ``size`` tasks."""
        lanes = self._in_reach()
        left = Counter(lane.priority for lane, tasks in lanes.items() for _ in tasks)
        order = self._onlooker.order(lanes)
        count = 0
        while line := order.next():
            tasks = lanes[line.lane]
            order.served(self._lay(tasks.popleft()), more=bool(tasks))
            left[line.lane.priority] -= 1
            if not left[line.lane.priority]:
                self._behind[line.lane.priority] = self._slots.copy()
            count += 1
            if count % size == 0:
                yield

    def _in_reach(self) -> Mapping[Lane, deque[Waiting]]:
        """Give the tasks by lane that nothing but time keeps from a GPU."""
        lanes: dict[Lane, deque[Waiting]] = {}
        known: dict[tuple[str, str], bool] = {}
        for task in self._lineup.first:
            whose = task.lane.model, task.tenant
            if whose not in known:
                known[whose] = self.moment.why(task.lane, task.tenant) in _IN_REACH
            if known[whose]:
                lanes.setdefault(task.lane, deque()).append(task)
        return lanes

    def _lay(self, task: Waiting) -> float:
        """Lay a task out, and give the seconds that it takes."""
        lane = task.lane
        run = self._slots.lay(lane.model, task.units, task.tenant, task.due_s)
        if run is None:
            return 0.0
        seconds = run.end_s - run.start_s
        turn_s = self._work_s.get(lane, 0.0)
        self.runs[task.number] = run
        self._work_s[lane] = turn_s + seconds
        self._charged_s += seconds
        queue = self._queues.setdefault((lane.model, lane.priority), _Queue())
        queue.turns_s.append(turn_s)
        queue.units.append(task.units)
        queue.runs.append(run)
        for whose in (None, task.tenant):
            self._starts_s[whose] = min(run.start_s, self._starts_s.get(whose, run.start_s))
        return seconds

    def joined(self, task: Waiting) -> "Outlook":
        """Give the outlook with one more at the end of its line, itself where it has more than a few."""
        lineup, lane = self._lineup, task.lane
        reachable = self.moment.foretells and self.moment.why(lane, task.tenant) in _IN_REACH
        if task.number in self.runs or not reachable or len(lineup.first) > FEW:
            return self
        counts = {**lineup.counts, lane.priority: lineup.counts.get(lane.priority, 0) + 1}
        first = (*lineup.first, task)
        outlook = Outlook(self.moment, replace(lineup, first=first, counts=counts), self._onlooker)
        for _ in outlook.steps(len(first)):
            pass
        return outlook

    def foretold(
        self, task: Waiting, position: int | None = None, after_s: float = 0.0
    ) -> tuple[Why, float | None]:
        """Say what holds a task back, and when it should end, None where nobody can tell.

        One that was not laid out is new, or far behind; its ``position`` says how far.
        """
        why = self.moment.why(task.lane, task.tenant, task.due_s)
        reachable = self.moment.foretells and why in _IN_REACH
        return why, self._end_s(task, position, after_s) if reachable else None

    def _end_s(self, task: Waiting, position: int | None, after_s: float) -> float | None:
        run = self.runs.get(task.number)
        if run is not None:
            return run.after(max(after_s, task.due_s)).end_s
        unseen = max(0, (position or 0) - 1 - self._looked[task.lane.priority])
        run = self._in_turn(task, unseen)
        if run is not None:
            return run.after(max(after_s, self._slots.ready_s(task.tenant, task.due_s))).end_s
        return self.end_behind_s(task, unseen, after_s)

    def _in_turn(self, task: Waiting, unseen: int) -> Run | None:
        """Give the run of whoever has the task's turn, made as long as its own; None where it is last."""
        lane = task.lane
        queue = self._queues.get((lane.model, lane.priority))
        if queue is None:
            return None
        ahead = min(unseen, max(0, self._lineup.depths.get(lane.name, 0) - self._seen[lane]))
        seconds = self.moment.run_s(lane.model, task.units) or 0.0
        turn_s = self._work_s.get(lane, 0.0) + ahead * seconds
        index = bisect_left(queue.turns_s, turn_s)
        if index == len(queue.turns_s):
            return None
        run = queue.runs[index]
        return run._replace(end_s=run.end_s + (task.units - queue.units[index]) * run.unit_s)

    def end_behind_s(self, task: Waiting, unseen: int | None = None, after_s: float = 0.0) -> float | None:
        """Foretell the end of a task behind all of its priority, of whom ``unseen`` were not laid out."""
        if not self.moment.foretells or self.moment.why(task.lane, task.tenant) not in _IN_REACH:
            return None
        priority = task.lane.priority
        due_s = max(after_s, task.due_s)
        run = self._after(priority).soonest(task.lane.model, task.units, task.tenant, due_s)
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
