"""Which waiting line is served next, on which slot.

The one rule: nothing is charged here. Who takes a choice calls ``Turns.serve`` with its seconds before the
next match, and ``Turns.settle`` when it is known what was true.
"""

from collections.abc import Callable, Sequence

from services.scheduling.deciding import Question
from services.scheduling.estimates import Estimates
from services.scheduling.fairness import Turns
from services.scheduling.policies import POLICIES
from services.scheduling.situation import Choice, Gpu


def match(
    turns: Turns,
    gpus: Sequence[Gpu],
    policy_of: Callable[[str], str],
    *,
    now: float,
    model_load_s: float,
) -> Choice | None:
    """Give the pair to serve next; None when nothing that waits should start now.

    ``turns`` knows all lanes with work, and ``gpus`` are all that take work, of all kinds, busy and free.
    ``policy_of`` names a kind's policy; ``model_load_s`` seconds a load takes until one was seen.
    """
    for kind in sorted({gpu.kind for gpu in gpus if gpu.free}):
        lines = turns.lines(kind)
        if not lines:
            continue
        able = [gpu for gpu in gpus if gpu.kind == kind]
        question = Question(
            lines.values(), able, turns.order(kind, now), Estimates(able, model_load_s), served=turns.count
        )
        if found := POLICIES[policy_of(kind)](question):
            return found
    return None
