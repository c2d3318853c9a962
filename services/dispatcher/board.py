"""The board of lanes: where work waits, as far as this dispatcher knows. Pure.

The one rule: what it says is a hint. A pull finds out, and one that comes back empty corrects it.
"""

from collections.abc import Mapping

from schemas.subjects import Lane
from services.bus.streams import Depth
from services.dispatcher.policies.balancing import WaitingLane


class _Knowledge:
    """``check``: some tickets of the lane may wait for redelivery."""

    __slots__ = ("check", "pulling", "turn", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.pulling = 0
        self.check = False
        self.turn = 0


class Board:
    def __init__(self) -> None:
        self._lanes: dict[Lane, _Knowledge] = {}
        self._turns = 0

    def hint(self, lane: Lane) -> None:
        """Take in that a ticket was stored there."""
        self._of(lane).waiting += 1

    def refresh(self, depths: Mapping[Lane, Depth], ours: Mapping[Lane, int]) -> None:
        """Take in what the server says, and how many tickets are in our hands.

        Tickets that were given out, and are not in our hands, may have come back.
        """
        for lane, depth in depths.items():
            known = self._of(lane)
            known.waiting = depth.waiting
            known.check = depth.given > ours.get(lane, 0) + known.pulling

    def candidates(self) -> list[WaitingLane]:
        """Give the lanes that are worth a pull."""
        return [
            WaitingLane(lane, known.turn)
            for lane, known in self._lanes.items()
            if known.waiting > known.pulling or known.check
        ]

    def take(self, lane: Lane) -> bool:
        """Note that a pull begins; True when a ticket is expected, so that waiting for it is worth it."""
        known = self._of(lane)
        expected = known.waiting > known.pulling
        known.check = False
        known.pulling += 1
        self._turns += 1
        known.turn = self._turns
        return expected

    def pulled(self, lane: Lane, *, found: bool) -> None:
        """Note how a pull ended."""
        known = self._of(lane)
        known.pulling -= 1
        known.waiting = max(0, known.waiting - 1) if found else 0

    def _of(self, lane: Lane) -> _Knowledge:
        return self._lanes.setdefault(lane, _Knowledge())
