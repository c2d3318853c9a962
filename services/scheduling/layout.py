"""The policy ``least_expected_completion``: waiting tickets are laid out over all GPUs, busy ones included.

The one rule: each ticket goes, in its turn, where it is expected to end first, and the first that goes to a
slot that is free now is the choice. So a slot may stay idle for a warm or faster one about to be free,
and a cold model is loaded only where its warm GPUs would need longer than the load. A load that pushes
another model out costs more than its time, since that one will have to be loaded again: else, near the
limit of what the GPUs can do, loads make for a line, and the line for loads.

Tickets before one that would rather wait are laid on busy slots, until it would not. A slot whose rest is
beyond what the free ones cost at most takes no more, so that a call ends after a few tickets for each busy
slot, and never lays out more than ``MOST_PLACED``.
"""

import heapq
from collections.abc import Iterable, Sequence
from typing import Final

from schemas.events import Candidate
from schemas.subjects import Lane
from services.scheduling.deciding import Question, Reason, decision
from services.scheduling.estimates import (
    Estimates,
    after,
    again_s,
    is_cold,
    runs_as,
    runs_on,
    worth_waiting,
)
from services.scheduling.fairness import Order
from services.scheduling.situation import Choice, Gpu, Line

NAME: Final = "least_expected_completion"
MOST_PLACED: Final = 1000


class _Seat:
    """What a spot offers who asks for one model: when it is free, what load and unit of work take then.

    ``lost_s``: what the load costs others.
    """

    __slots__ = ("cold_s", "load_s", "lost_s", "own", "rest_s", "spot", "unit_s")

    def __init__(self, spot: "_Spot") -> None:
        self.spot = spot
        self.own = ""
        self.rest_s = self.load_s = self.lost_s = self.cold_s = self.unit_s = 0.0

    def end_s(self, units: float) -> float:
        return self.rest_s + self.load_s + self.unit_s * units

    def cost_s(self, units: float) -> float:
        return self.end_s(units) + self.lost_s

    def waits_for(self, other: "_Seat", units: float) -> bool:
        """Whether this one, which is free, is left idle for another that is not yet."""
        return worth_waiting(other.cost_s(units), self.cost_s(units), self.load_s)


class _Spot:
    """A GPU as it will be once the tickets laid on it have run; a free one takes none but the choice.

    ``closed``: it takes no more.
    """

    __slots__ = ("closed", "gpu", "rests_s", "seats", "warm")

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.rests_s = [0.0] if gpu.free else sorted(gpu.rests_s)
        self.warm = gpu.learned.warm
        self.seats: dict[str, _Seat] = {}
        self.closed = False

    def offer(self, model: str, estimates: Estimates) -> _Seat | None:
        """Make the seat for a model, or bring it up to date; None when the GPU has no such model."""
        own = runs_as(self.gpu, model, self.warm)
        if own is None or not self.rests_s:
            return None
        seat = self.seats.get(model)
        if seat is None:
            seat = self.seats[model] = _Seat(self)
        if seat.own != own:
            seat.own = own
            seat.cold_s = estimates.load_s(self.gpu, own, ())
            seat.unit_s = estimates.run_s(self.gpu, own, 1.0)
        seat.rest_s = self.rests_s[0]
        seat.load_s = 0.0 if own in self.warm else seat.cold_s
        seat.lost_s = again_s(self.gpu, seat.load_s, self.warm, estimates.copies)
        return seat

    def take(self, seat: _Seat, end_s: float, estimates: Estimates) -> None:
        heapq.heapreplace(self.rests_s, end_s)
        warm = after(self.warm, seat.own, self.gpu.keeps)
        if warm == self.warm:
            for other in self.seats.values():
                other.rest_s = self.rests_s[0]
            return
        self.warm = warm
        for model in self.seats:
            self.offer(model, estimates)


class _Layout:
    def __init__(self, gpus: Sequence[Gpu], estimates: Estimates) -> None:
        self._estimates = estimates
        self._spots = [_Spot(gpu) for gpu in sorted(gpus, key=lambda gpu: (gpu.turn, gpu.name))]
        self._idle = [gpu for gpu in gpus if gpu.free]
        self._left: dict[Lane, int] = {}
        self._placed = 0
        self._free: dict[str, list[_Seat]] = {}
        self._busy: dict[str, list[_Seat]] = {}

    def first(self, order: Order, lines: Iterable[Line]) -> Choice | None:
        """Give the first line that gets a free slot; None when nothing should start now.

        One that would rather wait is looked at again after each ticket that is laid out before it: what
        it waits for only gets later.
        """
        horizon_s: float | None = None
        runs = runs_on(self._idle)
        able = order.first(runs)
        while able is not None:
            free, busy = self._best(able)
            if free and not (busy and free.waits_for(busy, able.units)):
                return self._choice(able, free)
            if horizon_s is None:
                horizon_s = self._horizon_s(lines)
            line = order.next() or able
            self._lay(line, order, horizon_s)
            if line is able:
                able = order.first(runs)
        return None

    def _lay(self, line: Line, order: Order, horizon_s: float) -> None:
        """Lay a ticket on the busy slot where it is best off; where there is none, nobody depends on it."""
        _, busy = self._best(line)
        if busy is None:
            return
        end_s = busy.end_s(line.units)
        self._left[line.lane] = self._left.get(line.lane, line.waiting) - 1
        self._placed += 1
        order.served(end_s - busy.rest_s, more=self._left[line.lane] > 0)
        busy.spot.take(busy, end_s, self._estimates)
        if busy.spot.rests_s[0] >= horizon_s or self._placed >= MOST_PLACED:
            self._close(busy.spot)

    def _best(self, line: Line) -> tuple[_Seat | None, _Seat | None]:
        """Find where a ticket would best go, of the free and of the busy ones; in turn among equals."""
        model, units = line.lane.model, line.units
        if model not in self._free:
            seats = [seat for spot in self._spots if (seat := spot.offer(model, self._estimates))]
            self._free[model] = [seat for seat in seats if seat.spot.gpu.free]
            self._busy[model] = [seat for seat in seats if not (seat.spot.gpu.free or seat.spot.closed)]
        return _soonest(self._free[model], units), _soonest(self._busy[model], units)

    def _horizon_s(self, lines: Iterable[Line]) -> float:
        """Give what a free slot costs a line at most: its load, that of what it pushes out, and the run."""
        most = max(line.units for line in lines)
        return max(
            2 * self._estimates.usual_load_s(gpu) + most * self._estimates.slowest_s(gpu)
            for gpu in self._idle
        )

    def _close(self, spot: _Spot) -> None:
        spot.closed = True
        for model, seat in spot.seats.items():
            if seat in self._busy.get(model, ()):
                self._busy[model].remove(seat)

    def _choice(self, line: Line, seat: _Seat) -> Choice:
        model, gpu = line.lane.model, seat.spot.gpu
        seats = [found for spot in self._spots if (found := spot.seats.get(model))]
        cold = _cold(seat)
        soonest: Reason = "soonest_cold" if cold else "soonest"
        return Choice(
            backend=gpu.name,
            slot=min(gpu.free),
            lane=line.lane,
            seconds=seat.end_s(line.units),
            decision=decision(
                NAME,
                "only" if len(seats) == 1 else soonest,
                (
                    Candidate(
                        backend=found.spot.gpu.name,
                        score=round(found.cost_s(line.units), 3),
                        free=bool(found.spot.gpu.free),
                        cold=_cold(found),
                    )
                    for found in seats
                ),
            ),
        )


def _soonest(seats: Sequence[_Seat], units: float) -> _Seat | None:
    return min(seats, key=lambda seat: seat.cost_s(units), default=None)


def _cold(seat: _Seat) -> bool:
    return is_cold(seat.spot.gpu, seat.own, seat.spot.warm)


def least_expected_completion(question: Question) -> Choice | None:
    """Serve what should be done first, see the module."""
    return _Layout(question.gpus, question.estimates).first(question.order, question.lines)
