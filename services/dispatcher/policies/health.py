"""How a backend is, from what probes and calls saw of it. Pure; busy is not dead.

The one rule: work is pulled for a backend only while it is UP.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from services.dispatcher.backends.base import Health, Loading, Misconfigured, Ready, Refused, Silent

SILENT_PROBES: Final = 3
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 60.0
_DOUBLINGS: Final = 10


class Condition(StrEnum):
    UNKNOWN = "unknown"
    UP = "up"
    LOADING = "loading"
    OVERLOADED = "overloaded"
    MISCONFIGURED = "misconfigured"
    DOWN = "down"


class State(Struct, frozen=True):
    """``strikes`` counts what went wrong in a row: silent probes while UP, then failed looks at it.

    ``refusals`` counts calls turned away since one was served, whatever the probes between them said.
    """

    condition: Condition = Condition.UNKNOWN
    reason: str | None = None
    strikes: int = 0
    refusals: int = 0

    @property
    def up(self) -> bool:
        return self.condition is Condition.UP


def probed(state: State, seen: Health, *, busy: bool) -> State:
    """Take in a probe. ``busy``: a call of ours, or of another dispatcher, is under way there."""
    match seen:
        case Ready():
            return State(Condition.UP, refusals=state.refusals)
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


def suspended(state: State, condition: Condition, reason: str) -> State:
    """Take in that a call was turned away: no work until a probe succeeds."""
    return replace(_worse(state, condition, reason), refusals=state.refusals + 1)


def served(state: State) -> State:
    """Take in that a call was served."""
    return replace(state, refusals=0)


def _worse(state: State, condition: Condition, reason: str) -> State:
    strikes = 1 if state.up else state.strikes + 1
    return State(condition, reason, strikes, state.refusals)


def next_probe_s(state: State, *, busy: bool, idle_s: float, busy_s: float) -> float:
    """Give the pause before the next probe: steady while UP, doubling from 0.25 to 60 s otherwise."""
    if state.up:
        return busy_s if busy else idle_s
    doublings = min(_DOUBLINGS, max(0, state.strikes - 1, state.refusals - 1))
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * (1 << doublings))
