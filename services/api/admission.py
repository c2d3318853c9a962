"""The bound on waiting tasks: what the projector counts, and what this process adds to it.

The one rule: a place is reserved before anything is sent, and counts until the projector's own count
has it; so within one process the bounds hold exactly, however many ask at once.
"""

import heapq
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from schemas.errors import Code
from schemas.subjects import Lane


class Place(Struct, frozen=True, eq=False):
    """Room for one task in a lane, until it is committed or given back."""

    lane: Lane
    tenant: str


class Counted(Struct, frozen=True):
    """What waits by the read model, of a kind and of a tenant in it; it has all up to ``checkpoint``."""

    checkpoint: int = 0
    waiting: int = 0
    of_tenant: int = 0


class Admission:
    """Pure bookkeeping; checkpoint and counts are handed in. Limits are of a kind, None is no limit."""

    def __init__(self, limit: int, tenant_limit: int | None = None) -> None:
        self._limit = limit
        self._tenant_limit = tenant_limit
        self._stored: dict[str, list[tuple[int, str, str]]] = {}
        self._kinds: Counter[str] = Counter()
        self._lanes: Counter[str] = Counter()
        self._tenants: Counter[tuple[str, str]] = Counter()

    def reserve(self, lane: Lane, tenant: str, counted: Counted) -> Place | Code:
        """Take a place, or say what is full."""
        self._prune(lane.kind, counted.checkpoint)
        if counted.waiting + self.added(lane.kind) >= self._limit:
            return Code.QUEUE_FULL
        if self._tenant_limit is not None:
            waiting = counted.of_tenant + self.added_of(lane.kind, tenant)
            if waiting >= self._tenant_limit:
                return Code.TENANT_QUEUE_FULL
        self._add(lane.kind, lane.name, tenant, 1)
        return Place(lane, tenant)

    def commit(self, place: Place, sequence: int) -> None:
        """Say that the task was stored."""
        stored = self._stored.setdefault(place.lane.kind, [])
        heapq.heappush(stored, (sequence, place.lane.name, place.tenant))

    def abort(self, place: Place) -> None:
        """Say that it was not."""
        self._add(place.lane.kind, place.lane.name, place.tenant, -1)

    def added(self, kind: str) -> int:
        """How many this process has on top of the projector's count."""
        return self._kinds[kind]

    def added_of(self, kind: str, tenant: str) -> int:
        """How many of those are one tenant's."""
        return self._tenants[kind, tenant]

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
            _, lane, tenant = heapq.heappop(stored)
            self._add(kind, lane, tenant, -1)

    def _add(self, kind: str, lane: str, tenant: str, change: int) -> None:
        """Count, and forget what is nought, since tenants come and go."""
        self._kinds[kind] += change
        self._lanes[lane] += change
        self._tenants[kind, tenant] += change
        if not self._lanes[lane]:
            del self._lanes[lane]
        if not self._tenants[kind, tenant]:
            del self._tenants[kind, tenant]
