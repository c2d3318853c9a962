"""Whose turn it is: lanes share GPU seconds as by deficit round robin; priorities go first, or by weight.

The one rule: an account is charged what was expected when its lane is served, and what was true afterwards.
Among lanes of one rank the one with the least on its account goes next.
"""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

from schemas.ids import ANY_MODEL
from schemas.requests import Priority
from schemas.subjects import Lane
from services.scheduling.accounts import Accounts
from services.scheduling.ranked import Ranked
from services.scheduling.situation import Line

Priorities = Literal["strict", "weighted"]

WEIGHTS: Final[Mapping[str, float]] = {Priority.HIGH: 9.0, Priority.NORMAL: 3.0, Priority.LOW: 1.0}

_RANKS: Final[Mapping[str, int]] = {str(priority): rank for rank, priority in enumerate(Priority)}
_LEAST_CHARGE_S: Final = 0.001  # or a lane whose work takes no time would always be the next


class _Rank:
    """Lanes of one rank. Ranks of the least ``place`` go first; a charge moves it on by ``step`` of it."""

    __slots__ = ("_again", "_index", "_lanes", "place", "step", "tie")

    def __init__(
        self, lanes: Ranked[Lane] | list[tuple[float, Lane]], tie: float, place: float, step: float
    ) -> None:
        self._lanes = lanes
        self._index = 0
        self._again: list[tuple[float, Lane]] = []
        self.place = place
        self.tie = tie
        self.step = step

    def __bool__(self) -> bool:
        return bool(self._again) or self._index < len(self._lanes)

    def take(self) -> tuple[float, Lane]:
        if self._again and (self._index == len(self._lanes) or self._again[0] < self._lanes[self._index]):
            return heapq.heappop(self._again)
        self._index += 1
        return self._lanes[self._index - 1]

    def copy(self) -> "_Rank":
        return _Rank(self._lanes.copy(), self.tie, self.place, self.step)

    def first(self, runs: Callable[[str], bool]) -> tuple[float, Lane] | None:
        """Give the first whose model can be run, and leave it there."""
        again = min((entry for entry in self._again if runs(entry[1].model)), default=None)
        left = itertools.islice(self._lanes, self._index, None)
        found = next((entry for entry in left if runs(entry[1].model)), None)
        return found if again is None or (found and found < again) else again

    def put_back(self, spent: float, lane: Lane) -> None:
        heapq.heappush(self._again, (spent, lane))


def _turn(rank: _Rank) -> tuple[float, float]:
    return rank.place, rank.tie


class Order:
    """Whose turn it would be next, and after that: the accounts are left as they are.

    It holds until its kind's lines change, a copy for ever.
    """

    def __init__(self, ranks: Sequence[_Rank], lines: Mapping[Lane, Line]) -> None:
        self._ranks = ranks
        self._lines = lines
        self._taken: tuple[_Rank, float, Lane] | None = None

    def next(self) -> Line | None:
        """Take out the line whose turn it is; None when there is none left."""
        rank = min(filter(None, self._ranks), key=_turn, default=None)
        if rank is None:
            return None
        self._taken = rank, *rank.take()
        return self._lines[self._taken[-1]]

    def copy(self) -> "Order":
        """Give the same order, of which nothing has been taken out yet."""
        return Order([rank.copy() for rank in self._ranks], dict(self._lines))

    def first(self, runs: Callable[[str], bool]) -> Line | None:
        """Give the line whose turn it is of those whose model can be run; it is not taken out."""
        for rank in sorted(self._ranks, key=_turn):
            if found := rank.first(runs):
                return self._lines[found[1]]
        return None

    def served(self, seconds: float, *, more: bool) -> None:
        """Charge the line that was taken out last, and put it back if it has more tickets."""
        if self._taken is None:
            return
        rank, spent, lane = self._taken
        rank.place += seconds * rank.step
        if more:
            rank.put_back(spent + seconds, lane)


class _Field:
    """The lanes of one kind that have work, by rank and account; ``shares`` are the accounts of priorities.

    A rank is a place among ranks and the priority by whose share it is moved on, "" where priorities are
    strict: then it gets better with each ``ageing_s`` that a lane waits, so nothing waits for ever.
    """

    def __init__(self, priorities: Priorities, ageing_s: float) -> None:
        self._weighted = priorities == "weighted"
        self._ageing_s = ageing_s
        self._older: Ranked[Lane] = Ranked()  # by the moment when its rank gets better
        self._ranks: dict[tuple[float, str], Ranked[Lane]] = {}
        self._rank_of: dict[Lane, tuple[float, str]] = {}
        self._at_work: Counter[str] = Counter()
        self.models: Counter[str] = Counter()
        """How many lines ask for each; those that none asks for any more are not in it."""
        self.lines: dict[Lane, Line] = {}
        self.lanes: Accounts[Lane] = Accounts(_queue)
        self.shares: Accounts[str] = Accounts(str)

    def admit(self, changes: Mapping[Lane, Line | None]) -> None:
        came, gone = [], []
        for lane, line in changes.items():
            known = self.lines.get(lane)
            if line == known:
                continue
            if line is None:
                del self.lines[lane]
                gone.append(lane)
                continue
            self.lines[lane] = line
            self.lanes.moved.add(lane)  # its age is another
            if known is None:
                came.append(lane)
        self.lanes.admit(came, gone)
        self.models.update(lane.model for lane in came)
        for lane in gone:
            self.models[lane.model] -= 1
            if not self.models[lane.model]:
                del self.models[lane.model]
        before = self._priorities
        self._at_work.update(lane.priority for lane in came)
        self._at_work.subtract(lane.priority for lane in gone)
        self.shares.admit(self._priorities - before, before - self._priorities)

    @property
    def _priorities(self) -> set[str]:
        return {priority for priority, lanes in self._at_work.items() if lanes}

    def order(self, now: float) -> Order:
        self.lanes.moved.update(self._older.drop_up_to(now))
        for lane in self.lanes.moved:
            self._place(lane, now)
        self.lanes.moved.clear()
        ranks = [
            _Rank(lanes, tie, self.shares.of(share), 1 / weight(share) if share else 0.0)
            for (tie, share), lanes in self._ranks.items()
        ]
        return Order(ranks, self.lines)

    def _place(self, lane: Lane, now: float) -> None:
        """Put a lane where it belongs by now, nowhere if it has no work."""
        line = self.lines.get(lane)
        rank = None if line is None else self._rank(line, now)
        before = self._rank_of.pop(lane, rank)
        if before is not None and before != rank:
            self._ranks[before].drop(lane)
            if not self._ranks[before]:
                del self._ranks[before]
        if rank is None:
            self._older.drop(lane)
        else:
            self._rank_of[lane] = rank
            self._ranks.setdefault(rank, Ranked()).put(lane, self.lanes.of(lane))

    def _rank(self, line: Line, now: float) -> tuple[float, str]:
        priority = line.lane.priority
        rank = _RANKS.get(priority, len(_RANKS))  # one that is not known comes last
        if self._weighted:
            return rank, priority
        ages = (now - line.since) // self._ageing_s
        self._older.put(line.lane, line.since + (ages + 1) * self._ageing_s)
        return rank - ages, ""


class Turns:
    """The accounts of one dispatcher. ``ageing_s``: strict priorities only."""

    def __init__(self, priorities: Priorities = "strict", ageing_s: float = 300.0) -> None:
        self._field_of = defaultdict[str, _Field](lambda: _Field(priorities, ageing_s))
        self.count = 0

    def admit(self, changes: Mapping[Lane, Line | None]) -> None:
        """Take in which lanes have other work than before; None where there is none any more."""
        by_kind: dict[str, dict[Lane, Line | None]] = {}
        for lane, line in changes.items():
            by_kind.setdefault(lane.kind, {})[lane] = line
        for kind, of_kind in by_kind.items():
            self._field_of[kind].admit(of_kind)

    def admit_only(self, kind: str, lines: Iterable[Line]) -> None:
        """Take in that these lanes, and no others of their kind, have work."""
        found = {line.lane: line for line in lines}
        gone = self.lines(kind).keys() - found.keys()
        self.admit({**dict.fromkeys(gone), **found})

    @property
    def any_wait(self) -> bool:
        return any(field.lines for field in self._field_of.values())

    def waits(self, kind: str, models: Iterable[str]) -> bool:
        """Say whether anything waits for one of these models, or for any."""
        asked = self._field_of[kind].models
        return bool(asked) and (ANY_MODEL in asked or not asked.keys().isdisjoint(models))

    def lines(self, kind: str) -> Mapping[Lane, Line]:
        """Give the lanes of one kind that have work."""
        return self._field_of[kind].lines

    def accounts(self, kind: str) -> Accounts[Lane]:
        """Give what the lanes of one kind have had."""
        return self._field_of[kind].lanes

    def order(self, kind: str, now: float) -> Order:
        """Give the order of one kind's lines; ``now`` by the clock of their ``since``."""
        return self._field_of[kind].order(now)

    def serve(self, lane: Lane, seconds: float) -> None:
        """Charge a lane what its ticket is expected to take."""
        self.count += 1
        seconds = max(seconds, _LEAST_CHARGE_S)
        field = self._field_of[lane.kind]
        field.lanes.charge(lane, seconds)
        field.shares.charge(lane.priority, seconds / weight(lane.priority))

    def settle(self, lane: Lane, estimated_s: float, true_s: float) -> None:
        """Correct a charge when the attempt has ended, by 0 where there was none after all."""
        more = true_s - max(estimated_s, _LEAST_CHARGE_S)
        field, by = self._field_of[lane.kind], weight(lane.priority)
        field.lanes.correct(lane, more, true_s)
        field.shares.correct(lane.priority, more / by, true_s / by)


def weight(priority: str) -> float:
    """Give a priority's share of GPU seconds; one that is not known, from a newer api, has that of low."""
    return WEIGHTS.get(priority, WEIGHTS[Priority.LOW])


def _queue(lane: Lane) -> tuple[str, str]:
    return lane.model, lane.priority
