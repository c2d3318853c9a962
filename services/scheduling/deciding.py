"""What a policy decides on, and how its decision is told.

The one rule: every reason that is ever given stands in one table.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from schemas.events import Candidate, Decision
from services.scheduling.estimates import Estimates
from services.scheduling.fairness import Order
from services.scheduling.situation import Gpu, Line

MOST_CANDIDATES: Final = 8

Reason = Literal[
    "only",
    "soonest",
    "soonest_cold",
    "turn",
    "least",
    "least_for_weight",
    "user",
    "lot",
    "named",
    "elsewhere",
]

REASONS: Final[Mapping[Reason, str]] = {
    "only": "the only one free that has the model",
    "soonest": "ends first there",
    "soonest_cold": "ends first there, even though the model has to be loaded",
    "turn": "its turn: the longest without new work",
    "least": "the least in use",
    "least_for_weight": "the least in use for its weight",
    "user": "where the user's work goes",
    "lot": "drawn by lot",
    "named": "the backend that the task names",
    "elsewhere": "another one than that where it failed",
}


class Question(NamedTuple):
    """Which line goes where next, all of one kind; ``served`` tickets have been so far."""

    lines: Collection[Line]
    gpus: Sequence[Gpu]
    order: Order
    estimates: Estimates
    served: int


def decision(policy: str, reason: Reason, candidates: Iterable[Candidate]) -> Decision:
    """Put a decision into words. Of ``candidates``, among equals the preferred first, the best are kept."""
    best = nsmallest(MOST_CANDIDATES, candidates, key=lambda candidate: candidate.score)
    return Decision(policy=policy, reason=REASONS[reason], candidates=tuple(best))


def because_named(found: Decision) -> Decision:
    """Give the decision for a task that names its backend, as it was found among the others."""
    return replace(found, reason=REASONS["named"])
