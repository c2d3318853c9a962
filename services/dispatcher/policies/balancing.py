"""Which free slot serves which lane next. Pure: what is waiting and what is free come in, a pair comes out.

The one rule: priority orders the lanes, turns are taken within a priority, the policy picks the slot.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct

from schemas.ids import ANY_MODEL, BackendId
from schemas.requests import Kind, Priority
from schemas.subjects import Lane

_RANK: Final = {priority: rank for rank, priority in enumerate(Priority)}


class FreeSlot(Struct, frozen=True):
    """A slot that could start now.

    ``busy`` of its backend's ``slots`` are not free; ``turn`` counts when the backend was last given work.
    """

    backend: BackendId
    number: int
    kind: Kind
    models: frozenset[str]
    busy: int
    slots: int
    turn: int


class WaitingLane(Struct, frozen=True):
    """A lane that has tickets, or may have; ``turn`` is when it was last served, as a count."""

    lane: Lane
    turn: int


class Pair(Struct, frozen=True):
    slot: FreeSlot
    lane: Lane


Policy = Callable[[Iterable[FreeSlot]], FreeSlot]


def round_robin(slots: Iterable[FreeSlot]) -> FreeSlot:
    """Take the slot of the backend that has waited longest for work."""
    return min(slots, key=lambda s: (s.turn, s.backend, s.number))


def least_outstanding(slots: Iterable[FreeSlot]) -> FreeSlot:
    """Take the slot of the backend that is least in use, in turns among equals."""
    return min(slots, key=lambda s: (s.busy / s.slots, s.turn, s.backend, s.number))


POLICIES: Final[Mapping[str, Policy]] = {
    "least_outstanding": least_outstanding,
    "round_robin": round_robin,
}


def match(lanes: Iterable[WaitingLane], slots: Iterable[FreeSlot], policy: Policy) -> Pair | None:
    """Give the pair to serve next; None when no slot can run anything that waits."""
    free = tuple(slots)
    for waiting in sorted(lanes, key=lambda w: (_rank(w.lane), w.turn, w.lane)):
        able = [slot for slot in free if can_run(slot, waiting.lane)]
        if able:
            return Pair(policy(able), waiting.lane)
    return None


def can_run(slot: FreeSlot, lane: Lane) -> bool:
    return slot.kind == lane.kind and (lane.model == ANY_MODEL or lane.model in slot.models)


def _rank(lane: Lane) -> int:
    """Order the priorities; one that is not known, from a newer api, comes last."""
    return next((rank for priority, rank in _RANK.items() if priority == lane.priority), len(_RANK))
