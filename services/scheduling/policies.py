"""Which GPU serves the line whose turn it is: the policies by name.

The one rule: a policy is a pure function of its question, so that any choice can be made again.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from schemas.events import Candidate
from services.scheduling import layout
from services.scheduling.deciding import Question, Reason, decision
from services.scheduling.estimates import is_cold, runs_as, runs_on
from services.scheduling.situation import Choice, Gpu, Line

Policy = Callable[[Question], Choice | None]
Score = Callable[[Gpu, Line, int], float]

_SLACK: Final = 1.25


def _by(name: str, reason: Reason, score: Score) -> Policy:
    """Make the policy by which the first line that a free GPU can run goes to the one of the least score.

    GPUs of equal score take turns.
    """

    def policy(question: Question) -> Choice | None:
        free = [gpu for gpu in question.gpus if gpu.free]
        line = question.order.first(runs_on(free))
        if line is None:
            return None
        scores = [
            (score(gpu, line, question.served), gpu.turn, gpu.name, gpu)
            for gpu in free
            if runs_as(gpu, line.lane.model, gpu.learned.warm) is not None
        ]
        return _choice(name, reason, question, line, sorted(scores))

    return policy


def _choice(
    name: str, reason: Reason, question: Question, line: Line, ranked: Sequence[tuple[float, int, str, Gpu]]
) -> Choice:
    gpu = ranked[0][-1]
    own = runs_as(gpu, line.lane.model, gpu.learned.warm) or ""
    estimates = question.estimates
    candidates = [
        Candidate(backend=gpu.name, score=round(score, 3), cold=_cold(gpu, line.lane.model))
        for score, _, _, gpu in ranked
    ]
    return Choice(
        backend=gpu.name,
        slot=min(gpu.free),
        lane=line.lane,
        seconds=estimates.load_s(gpu, own, gpu.learned.warm) + estimates.run_s(gpu, own, line.units),
        decision=decision(name, "only" if len(ranked) == 1 else reason, candidates),
    )


def _cold(gpu: Gpu, model: str) -> bool:
    own = runs_as(gpu, model, gpu.learned.warm)
    return own is not None and is_cold(gpu, own, gpu.learned.warm)


def _busy(gpu: Gpu) -> int:
    return len(gpu.rests_s)


def _in_use(gpu: Gpu, _line: Line, _served: int) -> float:
    return _busy(gpu) / gpu.slots


def _turn(gpu: Gpu, _line: Line, _served: int) -> float:
    return gpu.turn


def _for_weight(gpu: Gpu, _line: Line, _served: int) -> float:
    return (_busy(gpu) + 1) / gpu.weight


def _lot(gpu: Gpu, line: Line, served: int) -> float:
    return _point(f"{served}:{line.lane.name}:{gpu.name}")


def _point(text: str) -> float:
    """Map a text to a stable point in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


POLICIES: Final[Mapping[str, Policy]] = {
    layout.NAME: layout.least_expected_completion,
    "least_outstanding": _by("least_outstanding", "least", _in_use),
    "round_robin": _by("round_robin", "turn", _turn),
    "weighted": _by("weighted", "least_for_weight", _for_weight),
    "user_affinity": _by("user_affinity", "least", _in_use),
    "random": _by("random", "lot", _lot),
}


def affine(user: str, gpus: Sequence[Gpu], model: str) -> Gpu:
    """Give the GPU where a user's work goes: of those that have a free slot and the model, one at least.

    The same one each time, by rendezvous hashing, as long as it has the model loaded (where any has) and is
    not busier than its share: of what runs on all of them, and this, 1.25 times as much as on the average.
    """
    running = sum(_busy(gpu) for gpu in gpus) + 1
    slots = sum(gpu.slots for gpu in gpus)

    def reluctance(gpu: Gpu) -> tuple[bool, bool, float]:
        full = _busy(gpu) + 1 > math.ceil(_SLACK * running * gpu.slots / slots)
        return full, _cold(gpu, model), _point(f"{user}:{gpu.name}")

    return min(gpus, key=reluctance)
