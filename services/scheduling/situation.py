"""What a policy is told of the moment, and what it answers.

The one rule: everything that a choice depends on stands here, so that it can be made again.
"""

from collections.abc import Mapping

from msgspec import Struct

from schemas.events import Decision
from schemas.fleet import Learned
from schemas.ids import BackendId
from schemas.subjects import Lane


class Gpu(Struct, frozen=True, kw_only=True):
    """A backend that takes work. Durations in seconds.

    ``models`` maps the slugs that a task may ask for to the backend's own names. ``free`` are the numbers
    of its slots that could start now; ``rests_s`` says of each other slot how long it is expected to be
    busy still. ``learned.warm`` is what will be loaded then: what runs now is in it. ``turn`` counts when
    it was last given work.
    """

    name: BackendId
    kind: str
    models: Mapping[str, str]
    free: tuple[int, ...] = ()
    rests_s: tuple[float, ...] = ()
    keeps: int = 1
    weight: float = 1.0
    turn: int = 0
    learned: Learned = Learned()

    @property
    def slots(self) -> int:
        return len(self.free) + len(self.rests_s)


class Line(Struct, frozen=True, kw_only=True):
    """A lane with work. ``waiting`` tickets, at least one, of ``units`` of work each on average.

    ``since`` is the moment from which on it has had work and not been served, on the clock of who matches.
    """

    lane: Lane
    waiting: int = 1
    units: float = 1.0
    since: float = 0.0


class Choice(Struct, frozen=True, kw_only=True):
    """The pair to serve next. ``seconds`` of GPU time, as estimated, are charged to the lane."""

    backend: BackendId
    slot: int
    lane: Lane
    seconds: float
    decision: Decision
