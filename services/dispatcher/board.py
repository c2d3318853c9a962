"""The board of lanes: where work waits, as far as this dispatcher knows. Pure.

The one rule: what it says is a hint. A pull finds out, and one that comes back empty corrects it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from schemas.subjects import Lane
from services.bus.streams import Depth
from services.scheduling.ranked import Ranked
from services.scheduling.situation import Line

PATIENT_S: Final = 0.02
"""A wake-up is ahead of its ticket by less. What does not come is another dispatcher's, or was counted by a
hint and by the depth, and meanwhile a GPU stands idle that others have work for."""
_WEIGHT_OF_NEW: Final = 0.2
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 2.0


class _Knowledge:
    """``check``: some tickets of the lane may wait for redelivery. Moments are seconds on one's own clock.

    ``since``: when its head began to wait, at the latest. ``rests_until``: what it gives is not to run now.
    ``in_vain``: so many of its tickets in a row were not.
    """

    __slots__ = ("check", "delivered", "in_vain", "pulling", "rests_until", "since", "units", "waiting")

    def __init__(self, now: float) -> None:
        self.waiting = 0
        self.pulling = 0
        self.check = False
        self.delivered = 0
        self.units: float | None = None
        self.since = now
        self.rests_until = 0.0
        self.in_vain = 0

    def worth_a_pull(self, now: float) -> bool:
        return (self.waiting > self.pulling or self.check) and self.rests_until <= now


class Board:
    def __init__(self) -> None:
        self._lanes: dict[Lane, _Knowledge] = {}
        self._changed: set[Lane] = set()
        self._heard: Counter[Lane] = Counter()
        self._resting: Ranked[Lane] = Ranked()  # by the moment until which
        self._usual: dict[str, float] = {}

    def hint(self, lane: Lane, now: float) -> None:
        """Take in that a ticket was stored there, or is back."""
        known = self._of(lane, now)
        if not known.waiting:
            known.since = now
        known.waiting += 1
        self._heard[lane] += 1

    def suspect(self, lane: Lane, now: float) -> None:
        """Take in that a ticket may be back there: worth a pull, but not to wait for it."""
        self._of(lane, now).check = True

    def ask(self) -> None:
        """Note that the server is about to be asked: what is heard from now on may not be in its answer."""
        self._heard.clear()

    def refresh(self, depths: Mapping[Lane, Depth], ours: Mapping[Lane, int], now: float) -> None:
        """Take in what the server says, and how many tickets are in our hands.

        Tickets that were given out, and are not in our hands, may have come back.
        """
        for lane, depth in depths.items():
            known = self._of(lane, now)
            if not known.waiting or depth.delivered > known.delivered:
                known.since = now
            known.waiting, known.delivered = max(depth.waiting, self._heard[lane]), depth.delivered
            known.check = depth.given > ours.get(lane, 0) + known.pulling

    def changes(self, now: float, paused: Callable[[Lane], bool]) -> dict[Lane, Line | None]:
        """Give the lanes that may have changed since it was asked last, None for who is not worth a pull.

        The usual work of a kind counts for a lane from its next change on.
        """
        self._changed.update(self._resting.drop_up_to(now))
        changes = {lane: None if paused(lane) else self._line(lane, now) for lane in self._changed}
        self._changed.clear()
        return changes

    def _line(self, lane: Lane, now: float) -> Line | None:
        known = self._lanes[lane]
        if not known.worth_a_pull(now):
            return None
        return Line(
            lane=lane,
            waiting=max(1, known.waiting - known.pulling),
            units=known.units or self._usual.get(lane.kind, 1.0),
            since=known.since,
        )

    def review(self) -> None:
        """Take in that pauses have changed, of whatever lanes."""
        self._changed.update(self._lanes)

    def take(self, lane: Lane, now: float) -> float:
        """Note that a pull begins; gives the seconds that waiting for its ticket is worth."""
        known = self._of(lane, now)
        expected = known.waiting > known.pulling
        known.check = False
        known.pulling += 1
        known.since = now
        return PATIENT_S if expected else 0.0

    def pulled(self, lane: Lane, now: float, *, found: bool) -> None:
        """Note how a pull ended."""
        known = self._of(lane, now)
        known.pulling -= 1
        if found and not known.waiting:
            known.check = True  # it came back, and where it came from there may be more
        known.waiting = max(0, known.waiting - 1) if found else 0
        self._heard[lane] = max(0, self._heard[lane] - 1) if found else 0

    def measured(self, lane: Lane, units: float, now: float) -> None:
        """Take in how much work a ticket of the lane is."""
        known = self._of(lane, now)
        known.units = _moved(known.units, units)
        self._usual[lane.kind] = _moved(self._usual.get(lane.kind), units)

    def rest(self, lane: Lane, now: float) -> None:
        """Note that a ticket of the lane may not run. The next may; if it may not either, the lane rests.

        Longer each time in a row.
        """
        known = self._of(lane, now)
        known.in_vain += 1
        if known.in_vain > 1:
            pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (known.in_vain - 2))
            known.rests_until = now + pause_s
            self._resting.put(lane, known.rests_until)

    def ran(self, lane: Lane, now: float) -> None:
        """Note that a ticket of the lane was run."""
        self._of(lane, now).in_vain = 0

    def _of(self, lane: Lane, now: float) -> _Knowledge:
        """Give what is known of a lane, about to be changed."""
        self._changed.add(lane)
        known = self._lanes.get(lane)
        if known is None:
            known = self._lanes[lane] = _Knowledge(now)
        return known


def _moved(old: float | None, seen: float) -> float:
    return seen if old is None else old + _WEIGHT_OF_NEW * (seen - old)
