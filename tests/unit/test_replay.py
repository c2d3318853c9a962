"""A task once more: what stays as it was, and what may be different."""

from collections.abc import Callable
from typing import Any

import pytest

from schemas import intake, replay
from schemas.errors import Code, RejectedError
from schemas.intake import Intake
from schemas.requests import AnySubmission, Priority, SpeechRequest
from tests.builders import LIMITS, T0, TASK, at, image, picture, speech


def again(made: AnySubmission, **changed: Any) -> Intake:  # Any: JSON
    return replay.again(made, TASK, T0, replay.changes(changed))


def submitted(made: AnySubmission, **changed: Any) -> AnySubmission:  # Any: JSON
    body = again(made, **changed)
    return intake.submission(
        body, now=at(500), seed=99, limits=LIMITS, tenant=made.tenant, fingerprint="f", audio_bytes=5
    )


def refusal(act: Callable[[], object]) -> tuple[Code, str | None]:
    with pytest.raises(RejectedError) as caught:
        act()
    return caught.value.code, caught.value.member


def test_a_task_is_submitted_again_as_it_was() -> None:
    made = image(
        request=picture(steps=9, model="sdxl"),
        priority=Priority.HIGH,
        user="ada",
        tags=("zoo",),
        metadata={"order": {"number": 7}},
        max_attempts=5,
        run_timeout_s=70.0,
        backend="image-2",
        tenant="acme",
    )
    same = submitted(made)

    assert same.origin == TASK
    for name in (
        "request",
        "priority",
        "user",
        "tags",
        "metadata",
        "max_attempts",
        "run_timeout_s",
        "backend",
        "tenant",
    ):
        assert getattr(same, name) == getattr(made, name), name


def test_deadlines_keep_their_length_and_count_anew() -> None:
    made = image(start_deadline=at(59.998), deadline=at(119.998))
    same = submitted(made)

    assert (same.start_deadline, same.deadline) == (at(560), at(620))


def test_deadlines_of_a_delayed_task_count_from_its_start() -> None:
    made = image(not_before=at(100), start_deadline=at(160), deadline=at(220))
    same = submitted(made, delay_s=30)

    assert same.not_before == at(530)
    assert (same.start_deadline, same.deadline) == (at(590), at(650))


def test_more_time_to_start_is_more_time_in_total() -> None:
    made = image(start_deadline=at(60), deadline=at(120))
    same = submitted(made, start_deadline_s=3600)

    assert (same.start_deadline, same.deadline) == (at(4100), at(500 + LIMITS.deadline_s))


def test_members_are_replaced_one_by_one_and_null_leaves_one_out() -> None:
    made = image(request=picture(steps=9, model="sdxl", seed=7), user="ada", tags=("zoo",))
    other = submitted(made, request={"steps": 4, "model": None, "seed": None}, user=None, tags=["night"])

    assert other.request == picture(steps=4, seed=99)
    assert (other.user, other.tags) == (None, ("night",))


def test_a_recording_is_transcribed_in_another_form() -> None:
    other = submitted(speech(), request={"response_format": "srt"})

    assert other.request == SpeechRequest(artifact="recording", response_format="srt")
    assert getattr(other, "audio_bytes", 0) == 5


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"kind": "speech"}, (Code.UNKNOWN_MEMBER, "kind")),
        ({"request": "x"}, (Code.WRONG_TYPE, "request")),
        ({"request": {"artifact": "x"}}, (Code.UNKNOWN_MEMBER, "request.artifact")),
        ({"request": {"prompt": None}}, (Code.MISSING_MEMBER, "request.prompt")),
        ({"request": {"width": 7}}, (Code.OUT_OF_RANGE, "request.width")),
        ({"priority": "urgent"}, (Code.OUT_OF_RANGE, "priority")),
        ({"delay_s": 1, "not_before": "2026-12-24T18:00:00Z"}, (Code.CONFLICTING_MEMBERS, "delay_s")),
    ],
)
def test_what_does_not_hold_is_refused(changed: dict[str, Any], expected: tuple[Code, str]) -> None:
    assert refusal(lambda: again(image(), **changed)) == expected


def test_a_replay_s_fingerprint_is_its_own() -> None:
    body = again(image())
    prints = {
        intake.fingerprint(one) for one in (body, body._replace(origin=None), again(image(), user="ada"))
    }

    assert len(prints) == 3
