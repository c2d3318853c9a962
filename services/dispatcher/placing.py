"""Where a pulled ticket goes, which its lane could not tell: to a backend it names, to that of its user.

The one rule: a place is only better while it is free, but for one that the task names.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from schemas.events import Candidate, Decision
from schemas.ids import BackendId
from schemas.requests import AnySubmission
from schemas.subjects import Lane
from services.scheduling.deciding import decision
from services.scheduling.estimates import runs_as
from services.scheduling.policies import affine
from services.scheduling.situation import Gpu


class Place(Struct, frozen=True):
    """``waits``: the task runs nowhere else while that backend is in service."""

    backend: BackendId
    decision: Decision
    waits: bool = False


def better_place(
    submission: AnySubmission, lane: Lane, here: BackendId, gpus: Callable[[], Sequence[Gpu]], policy: str
) -> Place | None:
    """Say where a ticket should run rather than ``here``; None where this is the place.

    ``gpus`` gives those in service, each with the slots that are free for others.
    """
    if submission.backend not in (None, here):
        able = able_gpus(lane, gpus())
        if named := next((gpu for gpu in able if gpu.name == submission.backend), None):
            return Place(named.name, decision(policy, "named", _candidates(named, able)), waits=True)
    if submission.backend is not None or policy != "user_affinity" or submission.user is None:
        return None
    free = [_as_free(gpu) if gpu.name == here else gpu for gpu in able_gpus(lane, gpus())]
    free = [gpu for gpu in free if gpu.free]
    chosen = affine(submission.user, free, lane.model) if free else None
    if chosen is None or chosen.name == here:
        return None
    return Place(chosen.name, decision(policy, "user", _candidates(chosen, free)))


def able_gpus(lane: Lane, gpus: Sequence[Gpu]) -> list[Gpu]:
    """Give those that can run a lane's tasks."""
    return [
        gpu
        for gpu in gpus
        if gpu.kind == lane.kind and runs_as(gpu, lane.model, gpu.learned.warm) is not None
    ]


def _as_free(gpu: Gpu) -> Gpu:
    """Take the slot that the ticket has already for one that is free."""
    return replace(gpu, free=(*gpu.free, gpu.slots), rests_s=gpu.rests_s[1:])


def _candidates(chosen: Gpu, gpus: Sequence[Gpu]) -> list[Candidate]:
    return [
        Candidate(backend=gpu.name, score=0.0 if gpu is chosen else 1.0, free=bool(gpu.free))
        for gpu in gpus
    ]
