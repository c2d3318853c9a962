"""Where a pulled ticket goes that its lane could not tell."""

from typing import Any

import pytest

from schemas.ids import BackendId
from schemas.subjects import Lane
from services.dispatcher.placing import Place, better_place
from services.scheduling.situation import Gpu
from tests.builders import LANE, image, speech

HERE = BackendId("image-1")


def gpu(name: str, *, free: int = 1, busy: int = 0, **members: Any) -> Gpu:  # Any: whatever a Gpu may have
    fixed = {
        "kind": "image",
        "models": {"qwen": "qwen"},
        "free": tuple(range(free)),
        "rests_s": (9.0,) * busy,
    }
    return Gpu(name=BackendId(name), **{**fixed, **members})


def place(
    gpus: list[Gpu], policy: str = "least_expected_completion", lane: Lane = LANE, **of: Any
) -> Place | None:
    return better_place(image(**of), lane, HERE, lambda: gpus, policy)


GPUS = [gpu("image-1", free=0, busy=1), gpu("image-2"), gpu("image-3", free=0, busy=1)]


def test_a_task_that_names_nothing_runs_where_its_slot_is() -> None:
    assert place(GPUS) is None


def test_nobody_looks_at_the_gpus_for_a_task_that_does_not_care() -> None:
    def never() -> list[Gpu]:
        raise AssertionError

    assert better_place(image(user="ann"), LANE, HERE, never, "round_robin") is None


@pytest.mark.parametrize("named", ["image-2", "image-3"])
def test_a_task_goes_to_the_backend_that_it_names_and_waits_for_it(named: str) -> None:
    found = place(GPUS, backend=BackendId(named))

    assert found is not None
    assert (found.backend, found.waits) == (named, True)
    assert found.decision.reason == "the backend that the task names"


@pytest.mark.parametrize("named", ["image-1", "image-9", "speech-1"])
def test_a_task_stays_that_is_there_already_or_names_what_is_not_in_service(named: str) -> None:
    gpus = [*GPUS, gpu("speech-1", kind="speech")]

    assert place(gpus, backend=BackendId(named)) is None


def test_a_task_does_not_wait_for_a_backend_without_its_model() -> None:
    lane = Lane("image", "flux", "normal", 0)

    assert place(GPUS, lane=lane, backend=BackendId("image-2")) is None


def test_a_user_s_tasks_go_to_one_of_the_free_ones_each_time() -> None:
    gpus = [gpu("image-1", free=0, busy=1), *(gpu(f"image-{n}") for n in range(2, 9))]
    found = {
        user: {p.backend if (p := place(gpus, "user_affinity", user=user)) else HERE for _ in range(3)}
        for user in ("ann", "bob", "cid", "dee", "eve")
    }

    assert all(len(backends) == 1 for backends in found.values())
    assert len(set.union(*found.values())) > 1


def test_a_user_s_task_that_finds_nothing_free_elsewhere_stays() -> None:
    gpus = [gpu("image-1", free=0, busy=1), *(gpu(f"image-{n}", free=0, busy=1) for n in range(2, 9))]

    assert all(place(gpus, "user_affinity", user=f"user-{n}") is None for n in range(20))


def test_a_task_of_another_kind_sees_only_its_own_kind() -> None:
    lane = Lane("speech", "any", "normal", 0)
    submission = speech(backend=BackendId("image-2"))

    assert better_place(submission, lane, BackendId("speech-1"), lambda: GPUS, "user_affinity") is None
