"""Tickets in hand whose tasks name a backend that is busy: parked until it has a slot for them. Pure.

The one rule: to whoever chooses, what is parked is a lane of its own, whose model that backend alone has.
So it takes its turn like any other, and holds up none of those behind it.
"""

from bisect import insort
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from schemas.ids import BackendId
from schemas.requests import AnySubmission
from schemas.subjects import Lane
from schemas.work import units
from services.bus.tickets import Ticket
from services.scheduling.estimates import runs_as
from services.scheduling.situation import Gpu, Line

MOST_PARKED: Final = 256
"""For one backend; each is pulled once in ``PARKED_S``."""
PARKED_S: Final = 10.0
"""A ticket goes back after so long, well before its ack_wait ends: it may have had to wait for a slot that
another dispatcher works on, who would go on with it at once."""
_AT: Final = "@"  # in no slug


class _Parked(Struct, frozen=True):
    ticket: Ticket
    units: float
    since: float
    until: float


class _Lot(Struct, frozen=True):
    lane: Lane
    backend: BackendId
    parked: list[_Parked]


class Parking:
    """Moments are seconds on one's own clock. A lot's key is the lane that it appears to be."""

    def __init__(self) -> None:
        self._lots: dict[Lane, _Lot] = {}
        self._changed: set[Lane] = set()

    def put(self, ticket: Ticket, submission: AnySubmission, now: float, at: datetime) -> bool:
        """Park a ticket for the backend that its task names, ``at`` this time; False where it is full."""
        backend, lane = submission.backend, ticket.address.lane
        full = sum(len(lot.parked) for lot in self._lots.values() if lot.backend == backend) >= MOST_PARKED
        if backend is None or full:
            return False
        key = replace(lane, model=_only(lane.model, backend))
        lot = self._lots.setdefault(key, _Lot(lane, backend, []))
        age_s = (at - ticket.recorded.at).total_seconds()
        parked = _Parked(ticket, units(submission), now - age_s, now + PARKED_S)
        insort(lot.parked, parked, key=lambda each: each.ticket.sequence)
        self._changed.add(key)
        return True

    def take(self, key: Lane) -> Ticket | None:
        """Take out the ticket that was submitted first; None where the lane is no lot."""
        lot = self._lots.get(key)
        if lot is None:
            return None
        ticket = lot.parked.pop(0).ticket
        self._look_at(key, lot)
        return ticket

    def leave(self, now: float, gpus: Sequence[Gpu]) -> list[Ticket]:
        """Take out whose time is over, and who would wait in vain: ``gpus`` are those that take work."""
        able = {gpu.name: gpu for gpu in gpus}
        going = []
        for key, lot in tuple(self._lots.items()):
            gpu = able.get(lot.backend)
            lost = gpu is None or _own(gpu, lot.lane.model) is None
            staying = [each for each in lot.parked if not lost and each.until > now]
            if len(staying) < len(lot.parked):
                going += [each for each in lot.parked if lost or each.until <= now]
                lot.parked[:] = staying
                self._look_at(key, lot)
        return [each.ticket for each in going]

    def clear(self) -> list[Ticket]:
        """Take out all."""
        return self.leave(0.0, ())

    @property
    def lanes(self) -> Counter[Lane]:
        """Count what is parked, by the lane that it came from."""
        found = Counter[Lane]()
        for lot in self._lots.values():
            found[lot.lane] += len(lot.parked)
        return found

    def changes(self, paused: Callable[[Lane], bool]) -> dict[Lane, Line | None]:
        """Give the lots that may have changed since it was asked last, None for what is not to start."""
        changes = {key: self._line(key, paused) for key in self._changed}
        self._changed.clear()
        return changes

    def review(self) -> None:
        """Take in that pauses have changed, of whatever lanes."""
        self._changed.update(self._lots)

    @property
    def backends(self) -> set[BackendId]:
        """Give those for which something is parked."""
        return {lot.backend for lot in self._lots.values()}

    def with_models(self, gpus: Sequence[Gpu]) -> Sequence[Gpu]:
        """Give GPUs with the models that lots ask for."""
        return [self._with_lots(gpu) for gpu in gpus] if self._lots else gpus

    def _look_at(self, key: Lane, lot: _Lot) -> None:
        """Take in that something has left."""
        if not lot.parked:
            del self._lots[key]
        self._changed.add(key)

    def _line(self, key: Lane, paused: Callable[[Lane], bool]) -> Line | None:
        lot = self._lots.get(key)
        if lot is None or paused(lot.lane):
            return None
        head = lot.parked[0]
        return Line(lane=key, waiting=len(lot.parked), units=head.units, since=head.since)

    def _with_lots(self, gpu: Gpu) -> Gpu:
        asked = {lot.lane.model for lot in self._lots.values() if lot.backend == gpu.name}
        more = {_only(model, gpu.name): own for model in asked if (own := _own(gpu, model)) is not None}
        return replace(gpu, models={**gpu.models, **more}) if more else gpu


def _only(model: str, backend: BackendId) -> str:
    return f"{model}{_AT}{backend}"


def _own(gpu: Gpu, model: str) -> str | None:
    return runs_as(gpu, model, gpu.learned.warm)
