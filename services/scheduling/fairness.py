"""Whose turn it is: lanes share GPU seconds as by deficit round robin; priorities go first, or by weight.

The one rule: an account is charged what was expected when its lane is served, and what was true afterwards.
Among lanes of one rank the one with the least on its account goes next.
"""

import heapq
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Final, Generic, Literal, TypeVar

from schemas.requests import Priority
from schemas.subjects import Lane
from services.scheduling.situation import Line

Priorities = Literal["strict", "weighted"]

WEIGHTS: Final[Mapping[str, float]] = {Priority.HIGH: 9.0, Priority.NORMAL: 3.0, Priority.LOW: 1.0}

_RANKS: Final[Mapping[str, int]] = {str(priority): rank for rank, priority in enumerate(Priority)}
_LEAST_CHARGE_S: Final = 0.001  # or a lane whose work takes no time would always be the next
_MOST_LAG_S: Final = 60.0
_MOST_IDLE: Final = 1024

_Key = TypeVar("_Key", bound=Hashable)


class _Accounts(Generic[_Key]):
    """Seconds charged to keys that compete, of one kind of GPU.

    ``group`` names what a key has in common with those that compete with it for the same GPUs.
    """

    def __init__(self, group: Callable[[_Key], Hashable]) -> None:
        self._group = group
        self._spent: dict[_Key, float] = {}
        self._last: dict[_Key, float] = {}
        self._working: frozenset[_Key] = frozenset()

    def of(self, key: _Key) -> float:
        return self._spent.get(key, 0.0)

    def charge(self, key: _Key, seconds: float) -> None:
        self._spent[key] = self.of(key) + seconds
        self._last[key] = seconds

    def correct(self, key: _Key, seconds: float, true_s: float) -> None:
        if key in self._spent:
            self._spent[key] += seconds
            self._last[key] = true_s

    def admit(self, working: frozenset[_Key]) -> None:
        """Take in who has work now. Who had none begins level with the others, or a charge behind them."""
        stayed = working & self._working
        floors = self._least(stayed)
        if stayed:
            floor = min(floors.values())
        else:
            floor = min((self._spent[key] for key in working if key in self._spent), default=0.0)
        came = working - stayed
        for key in came:
            least = floors.get(self._group(key), floor)
            most = least + self._last.get(key, 0.0)
            self._spent[key] = min(max(self.of(key), least), most)
        self._working = working
        self._draw_up(self._least(working) if came else floors)
        self._forget(floor)

    def _least(self, keys: Iterable[_Key]) -> dict[Hashable, float]:
        least: dict[Hashable, float] = {}
        group_of, spent_by = self._group, self._spent
        for key in keys:
            group, spent = group_of(key), spent_by[key]
            if spent < least.get(group, math.inf):
                least[group] = spent
        return least

    def _draw_up(self, least: Mapping[Hashable, float]) -> None:
        """Keep groups within sight of each other, differences inside a group as they are.

        Who finds no GPU, or slower ones, falls behind the others; what can run on the GPUs of both would be
        held to the account of the one and take the other's place for as long as the two are apart.
        """
        if not least or max(least.values()) - min(least.values()) <= _MOST_LAG_S:
            return
        lag_s = _MOST_LAG_S + 2 * max(self._last.get(key, 0.0) for key in self._working)
        near = max(least.values()) - lag_s
        if min(least.values()) >= near:
            return
        for key in self._working:
            self._spent[key] += max(0.0, near - least[self._group(key)])

    def _forget(self, floor: float) -> None:
        """Forget who has no work and would begin like any other."""
        if len(self._spent) == len(self._working):
            return  # all of them are at work
        idle = [key for key in self._spent if key not in self._working]
        for key in idle:
            if len(idle) > _MOST_IDLE or (self._working and self._spent[key] <= floor):
                del self._spent[key]
                self._last.pop(key, None)


class _Rank:
    """Lanes of one rank. Ranks of the least ``place`` go first; a charge moves it on by ``step`` of it."""

    __slots__ = ("heap", "place", "step", "tie")

    def __init__(self, place: float, tie: int, step: float) -> None:
        self.place = place
        self.tie = tie
        self.step = step
        self.heap: list[tuple[float, Lane, Line]] = []


class Order:
    """Whose turn it would be next, and after that: a copy of the accounts to try things out on."""

    def __init__(self, ranks: Collection[_Rank]) -> None:
        self._ranks = ranks
        for rank in ranks:
            heapq.heapify(rank.heap)
        self._taken: tuple[_Rank, tuple[float, Lane, Line]] | None = None

    def next(self) -> Line | None:
        """Take out the line whose turn it is; None when there is none left."""
        rank = min((r for r in self._ranks if r.heap), key=lambda r: (r.place, r.tie), default=None)
        if rank is None:
            return None
        self._taken = rank, heapq.heappop(rank.heap)
        return self._taken[1][2]

    def served(self, seconds: float, *, more: bool) -> None:
        """Charge the line that was taken out last, and put it back if it has more tickets."""
        if self._taken is None:
            return
        rank, (spent, lane, line) = self._taken
        rank.place += seconds * rank.step
        if more:
            heapq.heappush(rank.heap, (spent + seconds, lane, line))


class Turns:
    """The accounts of one dispatcher. ``ageing_s``: strict priorities only."""

    def __init__(self, priorities: Priorities = "strict", ageing_s: float = 300.0) -> None:
        self._weighted = priorities == "weighted"
        self._ageing_s = ageing_s
        self._lanes: dict[str, _Accounts[Lane]] = {}
        self._shares: dict[str, _Accounts[str]] = {}
        self.count = 0

    def admit(self, lines: Iterable[Line]) -> None:
        """Take in which lanes have work now, of all kinds: all of them, each time anything has changed."""
        working: dict[str, list[Lane]] = {kind: [] for kind in self._lanes}
        for line in lines:
            working.setdefault(line.lane.kind, []).append(line.lane)
        for kind, lanes in working.items():
            self._lanes.setdefault(kind, _Accounts(_queue)).admit(frozenset(lanes))
            shares = self._shares.setdefault(kind, _Accounts(str))
            shares.admit(frozenset(lane.priority for lane in lanes))

    def order(self, lines: Iterable[Line]) -> Order:
        """Give the order of lines of one kind, all of which have been admitted."""
        ranks: dict[float | str, _Rank] = {}
        rank_of = self._share if self._weighted else self._level
        for line in lines:
            lane = line.lane
            rank_of(line, ranks).heap.append((self._lanes[lane.kind].of(lane), lane, line))
        return Order(ranks.values())

    def serve(self, lane: Lane, seconds: float) -> None:
        """Charge a lane what its ticket is expected to take."""
        self.count += 1
        seconds = max(seconds, _LEAST_CHARGE_S)
        self._lanes.setdefault(lane.kind, _Accounts(_queue)).charge(lane, seconds)
        share = self._shares.setdefault(lane.kind, _Accounts(str))
        share.charge(lane.priority, seconds / weight(lane.priority))

    def settle(self, lane: Lane, estimated_s: float, true_s: float) -> None:
        """Correct a charge when the attempt has ended, by 0 where there was none after all."""
        more = true_s - max(estimated_s, _LEAST_CHARGE_S)
        if lane.kind in self._lanes:
            self._lanes[lane.kind].correct(lane, more, true_s)
            by = weight(lane.priority)
            self._shares[lane.kind].correct(lane.priority, more / by, true_s / by)

    def _level(self, line: Line, ranks: dict[float | str, _Rank]) -> _Rank:
        """Strict: the priority's rank, one less for each time of ageing, so nothing waits for ever."""
        level = _rank(line.lane.priority) - line.waited_s // self._ageing_s
        rank = ranks.get(level)
        if rank is None:
            rank = ranks[level] = _Rank(level, 0, 0.0)
        return rank

    def _share(self, line: Line, ranks: dict[float | str, _Rank]) -> _Rank:
        """Weighted: the priorities' own accounts, a second costing each the less the more it weighs."""
        priority = line.lane.priority
        rank = ranks.get(priority)
        if rank is None:
            spent = self._shares[line.lane.kind].of(priority)
            rank = ranks[priority] = _Rank(spent, _rank(priority), 1 / weight(priority))
        return rank


def weight(priority: str) -> float:
    """Give a priority's share of GPU seconds; one that is not known, from a newer api, has that of low."""
    return WEIGHTS.get(priority, WEIGHTS[Priority.LOW])


def _rank(priority: str) -> int:
    """Order the priorities; one that is not known comes last."""
    return _RANKS.get(priority, len(_RANKS))


def _queue(lane: Lane) -> tuple[str, str]:
    return lane.model, lane.priority
