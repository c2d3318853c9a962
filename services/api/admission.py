"""The bound on waiting tasks: what the projector counts, and what this process adds to it.

The one rule: a place is reserved before anything is sent, and counts until the projector's own count
has it; so within one process the bound holds exactly, however many ask at once.
"""

import heapq
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from schemas.subjects import Lane


class Place(Struct, frozen=True, eq=False):
    """Room for one task in a lane, until it is committed or given back."""

    lane: Lane


class Admission:
    """Pure bookkeeping; checkpoint and counts are handed in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight: Counter[str] = Counter()
        self._stored: dict[str, list[tuple[int, str]]] = {}
        self._lanes: Counter[str] = Counter()

    def reserve(self, lane: Lane, checkpoint: int, waiting: int) -> Place | None:
        """Take a place, None when the kind is full.

        ``waiting`` tasks of the kind are in the read model, which has applied everything up to
        ``checkpoint``.
        """
        self._prune(lane.kind, checkpoint)
        if waiting + self.added(lane.kind) >= self._limit:
            return None
        self._in_flight[lane.kind] += 1
        self._lanes[lane.name] += 1
        return Place(lane)

    def commit(self, place: Place, sequence: int) -> None:
        """Say that the task was stored."""
        self._in_flight[place.lane.kind] -= 1
        stored = self._stored.setdefault(place.lane.kind, [])
        heapq.heappush(stored, (sequence, place.lane.name))

    def abort(self, place: Place) -> None:
        """Say that it was not."""
        self._in_flight[place.lane.kind] -= 1
        self._leave(place.lane.name)

    def added(self, kind: str) -> int:
        """How many this process has on top of the projector's count."""
        return self._in_flight[kind] + len(self._stored.get(kind, ()))

    def in_lane(self, lane: Lane) -> int:
        """How many of those are in one lane."""
        return self._lanes[lane.name]

    def shorter(self, lanes: Sequence[Lane], depths: Sequence[int]) -> Lane:
        """Give the lane that is shorter, with what this process has in it on top of its projected depth."""
        total = [depth + self.in_lane(lane) for lane, depth in zip(lanes, depths, strict=True)]
        return lanes[total.index(min(total))]

    def _prune(self, kind: str, checkpoint: int) -> None:
        stored = self._stored.get(kind, [])
        while stored and stored[0][0] <= checkpoint:
            self._leave(heapq.heappop(stored)[1])

    def _leave(self, lane: str) -> None:
        self._lanes[lane] -= 1
        if not self._lanes[lane]:
            del self._lanes[lane]
