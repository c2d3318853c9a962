"""How a backend is, from what probes and calls saw of it, and how much of it may be used. Pure.

The one rule: busy is not dead, and no error rate takes a backend out of use that is the last of its kind.
"""

from datetime import datetime, timedelta
from typing import Final
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace

from schemas import fleet
from schemas.fleet import Circuit, Condition
from services.dispatcher.backends.base import Health, Loading, Misconfigured, Ready, Refused, Silent

SILENT_PROBES: Final = 3
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 60.0
LONGEST_OPEN: Final = timedelta(seconds=300)
STUCK_OPEN: Final = timedelta(seconds=60)
"""How long others take a stuck backend's circuit for open after they heard of it last."""
_DOUBLINGS: Final = 10
_NO_CANARY: Final = frozenset({Condition.UNKNOWN, Condition.LOADING, Condition.OVERLOADED})


class Limits(Struct, frozen=True, kw_only=True):
    """``failures`` in a row open a circuit, for ``open_for`` at first."""

    failures: int = 5
    open_for: timedelta = timedelta(seconds=5)


class State(Struct, frozen=True, kw_only=True):
    """One dispatcher's view of a backend.

    ``condition`` is what its own probes and calls say; ``strikes`` counts what went wrong in a row (silent
    probes while UP, then failed looks at it), ``refusals`` the calls turned away since one was served.
    The rest is the circuit, which all dispatchers share, as in ``schemas.fleet.Health``: ``fault``, FAILING
    or STUCK, is why it is not closed, and ``stuck`` that it is a slot of ours which does not come free.
    """

    condition: Condition = Condition.UNKNOWN
    reason: str | None = None
    strikes: int = 0
    refusals: int = 0
    circuit: Circuit = Circuit.CLOSED
    fault: Condition | None = None
    fault_reason: str | None = None
    stuck: bool = False
    failures: int = 0
    openings: int = 0
    open_until: datetime | None = None
    wide: int | None = None

    @property
    def up(self) -> bool:
        return self.condition is Condition.UP


def probed(state: State, seen: Health, *, busy: bool) -> State:
    """Take in a probe. ``busy``: a call of ours, or of another dispatcher, is under way there."""
    match seen:
        case Ready():
            return _recovered(state)
        case Loading(reason=reason):
            return _worse(state, Condition.LOADING, reason)
        case Misconfigured(reason=reason):
            return _worse(state, Condition.MISCONFIGURED, reason)
        case Refused(reason=reason):
            return _worse(state, Condition.DOWN, reason)
        case Silent():
            if busy and state.up:
                return state
            if state.up and state.strikes + 1 < SILENT_PROBES:
                return replace(state, strikes=state.strikes + 1)
            return _worse(state, Condition.DOWN, "does not answer")


def _recovered(state: State) -> State:
    """Come back with one canary from where work would have failed; with one slot where it was too much."""
    back = replace(state, condition=Condition.UP, reason=None, strikes=0)
    if state.condition is Condition.OVERLOADED and state.circuit is Circuit.CLOSED:
        return replace(back, wide=1)
    if state.up or state.condition in _NO_CANARY or state.circuit is Circuit.OPEN:
        return back
    return replace(back, circuit=Circuit.HALF_OPEN)


def suspended(state: State, condition: Condition, reason: str) -> State:
    """Take in that a call was turned away: no work until a probe succeeds."""
    return replace(_worse(state, condition, reason), refusals=state.refusals + 1)


def served(state: State, now: datetime, slots: int) -> State:
    """Take in that a call was served: a canary closes the circuit, and then ever more slots are used."""
    wide = 1 if phase(state, now) is not Circuit.CLOSED else state.wide
    wider = None if wide is None or wide * 2 >= slots else wide * 2
    return replace(
        state,
        refusals=0,
        circuit=Circuit.CLOSED,
        fault=None,
        fault_reason=None,
        failures=0,
        openings=0,
        open_until=None,
        wide=wider,
    )


def failed(state: State, reason: str, now: datetime, limits: Limits, *, canary: bool) -> State:
    """Take in that a call failed by the backend's own fault.

    ``canary``: it was begun to find out whether the backend works again. Of what was under way before, and
    is only now known to be lost, nothing is learned about that.
    """
    failures = state.failures + 1
    closed = phase(state, now) is Circuit.CLOSED
    if not (failures >= limits.failures if closed else canary):
        return replace(state, failures=failures)
    longest: timedelta = min(LONGEST_OPEN, limits.open_for * (1 << min(state.openings, _DOUBLINGS)))
    return replace(
        state,
        circuit=Circuit.OPEN,
        fault=Condition.FAILING,
        fault_reason=reason,
        failures=failures,
        openings=state.openings + 1,
        open_until=now + longest,
    )


def stuck(state: State, reason: str, now: datetime) -> State:
    """Take in that a call there does not end, or still does not."""
    return replace(
        state,
        circuit=Circuit.OPEN,
        fault=Condition.STUCK,
        fault_reason=reason,
        stuck=True,
        open_until=now + STUCK_OPEN,
    )


def unstuck(state: State) -> State:
    """Take in that every such call has ended after all: a canary may try."""
    return replace(
        state, circuit=Circuit.HALF_OPEN, fault=None, fault_reason=None, stuck=False, open_until=None
    )


def phase(state: State, now: datetime) -> Circuit:
    """Give the circuit as it is now: one that was open for its time is half open."""
    if state.circuit is Circuit.OPEN and state.open_until and state.open_until <= now and not state.stuck:
        return Circuit.HALF_OPEN
    return state.circuit


def width(state: State, now: datetime, slots: int, *, last: bool) -> int:
    """Give how many slots, from number 0 on, may be given work.

    A canary is one because slot 0 has one lease, whoever dispatches. ``last`` of its kind: what failed
    there does not count, since there is nowhere else to go.
    """
    if not state.up or state.stuck:
        return 0
    match phase(state, now):
        case Circuit.OPEN:
            return slots if last and state.fault is Condition.FAILING else 0
        case Circuit.HALF_OPEN:
            return slots if last else 1
        case Circuit.CLOSED:
            return slots if state.wide is None or last else min(slots, state.wide)


def shown(state: State, now: datetime) -> Condition:
    """Give the condition that people see."""
    faulty = state.up and phase(state, now) is not Circuit.CLOSED
    return state.fault if faulty and state.fault else state.condition


def told(state: State, now: datetime, by: str) -> fleet.Health:
    """Say what the other dispatchers and the api get to know."""
    return fleet.Health(
        condition=shown(state, now),
        reason=state.fault_reason if state.up and state.fault else state.reason,
        circuit=state.circuit,
        since=now,
        by=by,
        failures=state.failures,
        openings=state.openings,
        open_until=state.open_until,
        wide=state.wide,
    )


def heard(state: State, other: fleet.Health) -> State:
    """Take in the circuit as another dispatcher left it; its condition is its own."""
    if state.stuck:
        return state
    faulty = other.circuit is not Circuit.CLOSED and other.condition in (Condition.FAILING, Condition.STUCK)
    return replace(
        state,
        circuit=other.circuit,
        fault=other.condition if faulty else None,
        fault_reason=other.reason if faulty else None,
        failures=other.failures,
        openings=other.openings,
        open_until=other.open_until,
        wide=other.wide,
    )


def _worse(state: State, condition: Condition, reason: str) -> State:
    strikes = 1 if state.up else state.strikes + 1
    return replace(state, condition=condition, reason=reason, strikes=strikes)


def next_probe_s(state: State, *, busy: bool, idle_s: float, busy_s: float) -> float:
    """Give the pause before the next probe: steady while UP, doubling from 0.25 to 60 s otherwise."""
    if state.up:
        return busy_s if busy else idle_s
    doublings = min(_DOUBLINGS, max(0, state.strikes - 1, state.refusals - 1))
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * (1 << doublings))


def spread(name: str) -> float:
    """Give the part of its first pause, below 1, after which a backend is probed for the second time.

    All are probed at the start. Were they probed together for ever, tasks would wait for each such burst.
    """
    return crc32(name.encode()) / 2**32
