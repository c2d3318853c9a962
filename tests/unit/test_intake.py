"""From what a client sent to a submission: every refusal names the member and what is allowed."""

from datetime import UTC, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import intake
from schemas.errors import Code, RejectedError
from schemas.intake import MAX_METADATA_BYTES, Common, Intake
from schemas.requests import (
    MAX_PROMPT,
    MAX_REQUEST_BYTES,
    MAX_SEED,
    AnySubmission,
    ImageRequest,
    ImageSubmission,
    Kind,
    Priority,
    SpeechRequest,
    SpeechSubmission,
)
from tests import strategies
from tests.builders import LIMITS, T0, TASK, at

PROMPT = {"prompt": "a red fox"}
ARTIFACT = {"artifact": "recording"}
LIFE_S = 172_800
HORIZON_S = 13 * 86_400


def nest(levels: int) -> list[Any]:  # Any: lists in lists
    inner: list[Any] = []
    for _ in range(levels - 1):
        inner = [inner]
    return inner


IMAGE_REFUSALS: list[tuple[dict[str, Any], Code, str]] = [  # Any: JSON
    ({}, Code.MISSING_MEMBER, "prompt"),
    ({"prompt": ""}, Code.OUT_OF_RANGE, "prompt"),
    ({"prompt": " \n\t"}, Code.OUT_OF_RANGE, "prompt"),
    ({"prompt": "x" * (MAX_PROMPT + 1)}, Code.OUT_OF_RANGE, "prompt"),
    ({"prompt": None}, Code.WRONG_TYPE, "prompt"),
    ({"prompt": 7}, Code.WRONG_TYPE, "prompt"),
    ({"prompt": ["a"]}, Code.WRONG_TYPE, "prompt"),
    ({**PROMPT, "negative_prompt": None}, Code.WRONG_TYPE, "negative_prompt"),
    ({**PROMPT, "negative_prompt": "x" * (MAX_PROMPT + 1)}, Code.OUT_OF_RANGE, "negative_prompt"),
    ({**PROMPT, "width": 63}, Code.OUT_OF_RANGE, "width"),
    ({**PROMPT, "width": 4104}, Code.OUT_OF_RANGE, "width"),
    ({**PROMPT, "width": 1023}, Code.OUT_OF_RANGE, "width"),
    ({**PROMPT, "width": -8}, Code.OUT_OF_RANGE, "width"),
    ({**PROMPT, "width": "1024"}, Code.WRONG_TYPE, "width"),
    ({**PROMPT, "width": 512.5}, Code.WRONG_TYPE, "width"),
    ({**PROMPT, "width": True}, Code.WRONG_TYPE, "width"),
    ({**PROMPT, "height": 4104}, Code.OUT_OF_RANGE, "height"),
    ({**PROMPT, "steps": 0}, Code.OUT_OF_RANGE, "steps"),
    ({**PROMPT, "steps": 201}, Code.OUT_OF_RANGE, "steps"),
    ({**PROMPT, "steps": None}, Code.WRONG_TYPE, "steps"),
    ({**PROMPT, "seed": -1}, Code.OUT_OF_RANGE, "seed"),
    ({**PROMPT, "seed": MAX_SEED + 1}, Code.OUT_OF_RANGE, "seed"),
    ({**PROMPT, "seed": "7"}, Code.WRONG_TYPE, "seed"),
    ({**PROMPT, "guidance": 50.5}, Code.OUT_OF_RANGE, "guidance"),
    ({**PROMPT, "sampler": ""}, Code.OUT_OF_RANGE, "sampler"),
    ({**PROMPT, "model": ""}, Code.OUT_OF_RANGE, "model"),
    ({**PROMPT, "model": "x" * 129}, Code.OUT_OF_RANGE, "model"),
    ({**PROMPT, "n": 0}, Code.OUT_OF_RANGE, "n"),
    ({**PROMPT, "n": 9}, Code.OUT_OF_RANGE, "n"),
    ({**PROMPT, "promt": "typo"}, Code.UNKNOWN_MEMBER, "promt"),
    ({**PROMPT, "extra": {}}, Code.UNKNOWN_MEMBER, "extra"),
    ({**PROMPT, "webhook": "http://x"}, Code.UNKNOWN_MEMBER, "webhook"),
    ({**PROMPT, "kind": "image"}, Code.UNKNOWN_MEMBER, "kind"),
    ({**PROMPT, "priority": "urgent"}, Code.OUT_OF_RANGE, "priority"),
    ({**PROMPT, "priority": 1}, Code.WRONG_TYPE, "priority"),
    ({**PROMPT, "not_before": "tomorrow"}, Code.WRONG_TYPE, "not_before"),
    ({**PROMPT, "not_before": "2026-11-25T09:00:00"}, Code.OUT_OF_RANGE, "not_before"),
    ({**PROMPT, "not_before": 1_800_000_000}, Code.WRONG_TYPE, "not_before"),
    ({**PROMPT, "delay_s": -1}, Code.OUT_OF_RANGE, "delay_s"),
    ({**PROMPT, "delay_s": 30 * 86_400 + 1}, Code.OUT_OF_RANGE, "delay_s"),
    ({**PROMPT, "delay_s": "1"}, Code.WRONG_TYPE, "delay_s"),
    ({**PROMPT, "start_deadline_s": 0}, Code.OUT_OF_RANGE, "start_deadline_s"),
    ({**PROMPT, "run_timeout_s": 0}, Code.OUT_OF_RANGE, "run_timeout_s"),
    ({**PROMPT, "run_timeout_s": 86_401}, Code.OUT_OF_RANGE, "run_timeout_s"),
    ({**PROMPT, "max_attempts": 0}, Code.OUT_OF_RANGE, "max_attempts"),
    ({**PROMPT, "max_attempts": 21}, Code.OUT_OF_RANGE, "max_attempts"),
    ({**PROMPT, "user": ""}, Code.OUT_OF_RANGE, "user"),
    ({**PROMPT, "user": {}}, Code.WRONG_TYPE, "user"),
    ({**PROMPT, "tags": "a"}, Code.WRONG_TYPE, "tags"),
    ({**PROMPT, "tags": [1]}, Code.WRONG_TYPE, "tags"),
    ({**PROMPT, "tags": [""]}, Code.OUT_OF_RANGE, "tags"),
    ({**PROMPT, "tags": ["t"] * 33}, Code.OUT_OF_RANGE, "tags"),
    ({**PROMPT, "metadata": []}, Code.WRONG_TYPE, "metadata"),
    ({**PROMPT, "metadata": {"x": "y" * MAX_METADATA_BYTES}}, Code.OUT_OF_RANGE, "metadata"),
    ({**PROMPT, "metadata": {"x": nest(16)}}, Code.OUT_OF_RANGE, "metadata"),
    ({**PROMPT, "metadata": {"x": nest(900)}}, Code.OUT_OF_RANGE, "metadata"),
    ({**PROMPT, "delay_s": 1, "not_before": "2026-11-25T09:00:00Z"}, Code.CONFLICTING_MEMBERS, "delay_s"),
]

SPEECH_REFUSALS: list[tuple[dict[str, Any], Code, str]] = [  # Any: JSON
    ({}, Code.MISSING_MEMBER, "artifact"),
    ({"artifact": ""}, Code.OUT_OF_RANGE, "artifact"),
    ({**ARTIFACT, "language": "German"}, Code.OUT_OF_RANGE, "language"),
    ({**ARTIFACT, "language": 49}, Code.WRONG_TYPE, "language"),
    ({**ARTIFACT, "temperature": 1.5}, Code.OUT_OF_RANGE, "temperature"),
    ({**ARTIFACT, "temperature": "0"}, Code.WRONG_TYPE, "temperature"),
    ({**ARTIFACT, "prompt": "x" * (MAX_PROMPT + 1)}, Code.OUT_OF_RANGE, "prompt"),
    ({**ARTIFACT, "translate": "yes"}, Code.WRONG_TYPE, "translate"),
    ({**ARTIFACT, "word_timestamps": 1}, Code.WRONG_TYPE, "word_timestamps"),
    ({**ARTIFACT, "response_format": "xml"}, Code.OUT_OF_RANGE, "response_format"),
    ({**ARTIFACT, "response_format": None}, Code.WRONG_TYPE, "response_format"),
    ({**ARTIFACT, "width": 512}, Code.UNKNOWN_MEMBER, "width"),
]


def refusal(body: Any) -> RejectedError:  # Any: a call that must refuse
    with pytest.raises(RejectedError) as refused:
        body()
    return refused.value


@pytest.mark.parametrize(("raw", "code", "member"), IMAGE_REFUSALS)
def test_a_wrong_picture_is_refused_by_name(raw: dict[str, Any], code: Code, member: str) -> None:
    refused = refusal(lambda: intake.flat(Kind.IMAGE, raw))

    assert (refused.code, refused.member) == (code, member)
    assert member in refused.detail


@pytest.mark.parametrize(("raw", "code", "member"), SPEECH_REFUSALS)
def test_a_wrong_transcription_is_refused_by_name(raw: dict[str, Any], code: Code, member: str) -> None:
    refused = refusal(lambda: intake.flat(Kind.SPEECH, raw))

    assert (refused.code, refused.member) == (code, member)
    assert member in refused.detail


@pytest.mark.parametrize(("raw", "code", "member"), IMAGE_REFUSALS)
def test_a_nested_request_is_refused_alike_and_its_members_by_their_path(
    raw: dict[str, Any], code: Code, member: str
) -> None:
    common = {name: value for name, value in raw.items() if name in Common.__struct_fields__}
    request = {name: value for name, value in raw.items() if name not in common}
    refused = refusal(lambda: intake.nested({"kind": "image", "request": request, **common}))

    path = member if member in Common.__struct_fields__ else f"request.{member}"
    assert (refused.code, refused.member) == (code, path)


@pytest.mark.parametrize(
    ("raw", "code", "member"),
    [
        ({}, Code.MISSING_MEMBER, "kind"),
        ({"kind": None, "request": PROMPT}, Code.MISSING_MEMBER, "kind"),
        ({"kind": "image"}, Code.MISSING_MEMBER, "request"),
        ({"kind": "video", "request": {}}, Code.UNKNOWN_KIND, "kind"),
        ({"kind": 7, "request": {}}, Code.UNKNOWN_KIND, "kind"),
        ({"kind": ["image"], "request": {}}, Code.UNKNOWN_KIND, "kind"),
        ({"kind": "image", "request": "a fox"}, Code.WRONG_TYPE, "request"),
        ({"kind": "image", "request": PROMPT, "prompt": "b"}, Code.UNKNOWN_MEMBER, "prompt"),
        ({"kind": "image", "request": {**PROMPT, "tags": []}}, Code.UNKNOWN_MEMBER, "request.tags"),
    ],
)
def test_what_is_wrong_around_a_request_is_refused_too(
    raw: dict[str, Any], code: Code, member: str
) -> None:
    refused = refusal(lambda: intake.nested(raw))

    assert (refused.code, refused.member) == (code, member)


def test_an_unknown_member_is_refused_with_the_known_ones() -> None:
    flat = refusal(lambda: intake.flat(Kind.IMAGE, {**PROMPT, "x": 1}))
    inner = refusal(lambda: intake.nested({"kind": "image", "request": {**PROMPT, "x": 1}}))
    outer = refusal(lambda: intake.nested({"kind": "image", "request": PROMPT, "x": 1}))

    assert flat.extra["allowed"] == sorted({*ImageRequest.__struct_fields__, *Common.__struct_fields__})
    assert inner.extra["allowed"] == sorted(ImageRequest.__struct_fields__)
    assert outer.extra["allowed"] == sorted({*Common.__struct_fields__, "kind", "request"})


@pytest.mark.parametrize(
    ("kind", "raw", "allowed"),
    [
        (Kind.IMAGE, {**PROMPT, "priority": "urgent"}, ["high", "normal", "low"]),
        (
            Kind.SPEECH,
            {**ARTIFACT, "response_format": "xml"},
            ["json", "text", "srt", "vtt", "verbose_json"],
        ),
    ],
)
def test_a_wrong_choice_is_refused_with_the_choices(
    kind: Kind, raw: dict[str, Any], allowed: list[str]
) -> None:
    assert refusal(lambda: intake.flat(kind, raw)).extra["allowed"] == allowed


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    refused = refusal(lambda: intake.nested({"kind": "video", "request": {}}))

    assert refused.extra["allowed"] == ["image", "speech"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", Code.MALFORMED),
        (b"{", Code.MALFORMED),
        (b"[]", Code.MALFORMED),
        (b"null", Code.MALFORMED),
        (b'"a fox"', Code.MALFORMED),
        (b"\xff", Code.MALFORMED),
        (b'{"prompt": "\xff"}', Code.MALFORMED),
        (b'{"prompt": "\\ud800"}', Code.MALFORMED),
        (b'{"steps": 1e999}', Code.MALFORMED),
        (b'{"steps": NaN}', Code.MALFORMED),
        (b"[" * 100_000, Code.MALFORMED),
        (b" " * (MAX_REQUEST_BYTES + 1), Code.BODY_TOO_LARGE),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, code: Code) -> None:
    assert refusal(lambda: intake.read_json(body)).code is code


def test_metadata_may_be_as_deep_as_the_limit() -> None:
    metadata = {"x": nest(15)}

    assert intake.flat(Kind.IMAGE, {**PROMPT, "metadata": metadata}).common.metadata == metadata


def test_a_body_may_be_as_large_as_the_limit() -> None:
    body = b'{"a":"' + b"x" * (MAX_REQUEST_BYTES - 8) + b'"}'

    assert len(body) == MAX_REQUEST_BYTES
    assert set(intake.read_json(body)) == {"a"}


def test_members_of_the_request_and_common_ones_stand_side_by_side() -> None:
    request, common, _ = intake.flat(Kind.IMAGE, {**PROMPT, "steps": 4, "priority": "high", "tags": ["a"]})

    assert request == ImageRequest(prompt="a red fox", steps=4)
    assert common == Common(priority=Priority.HIGH, tags=("a",))


def test_a_body_says_the_same_nested_and_flat() -> None:
    flat = intake.flat(Kind.IMAGE, {**PROMPT, "user": "ada"})

    assert intake.nested({"kind": "image", "request": PROMPT, "user": "ada"}) == flat


def test_a_form_s_text_is_read_as_numbers_and_booleans() -> None:
    form = {
        **ARTIFACT,
        "temperature": "0.5",
        "translate": "true",
        "word_timestamps": "0",
        "max_attempts": "2",
        "delay_s": "1.5",
    }
    request, common, _ = intake.flat(Kind.SPEECH, form, strict=False)

    assert request == SpeechRequest(artifact="recording", temperature=0.5, translate=True)
    assert (common.max_attempts, common.delay_s) == (2, 1.5)


@pytest.mark.parametrize(
    ("member", "text", "code"),
    [
        ("temperature", "warm", Code.WRONG_TYPE),
        ("temperature", "2", Code.OUT_OF_RANGE),
        ("translate", "perhaps", Code.WRONG_TYPE),
        ("max_attempts", "1.5", Code.WRONG_TYPE),
        ("max_attempts", "0", Code.OUT_OF_RANGE),
        ("response_format", "xml", Code.OUT_OF_RANGE),
    ],
)
def test_a_form_s_text_that_is_no_such_value_is_refused(member: str, text: str, code: Code) -> None:
    refused = refusal(lambda: intake.flat(Kind.SPEECH, {**ARTIFACT, member: text}, strict=False))

    assert (refused.code, refused.member) == (code, member)


def submit(kind: Kind = Kind.IMAGE, **members: Any) -> AnySubmission:  # Any: JSON
    raw = {**(PROMPT if kind is Kind.IMAGE else ARTIFACT), **members}
    taken = intake.flat(kind, raw)
    return intake.submission(taken, now=T0, seed=4711, limits=LIMITS, tenant="acme", fingerprint="f")


@pytest.mark.parametrize(
    ("said", "start", "end"),
    [
        ({"deadline_s": 90_000}, 86_400, 90_000),
        ({"deadline_s": 60}, 60, 60),
        ({"start_deadline_s": 600, "deadline_s": 60}, 60, 60),
        ({"start_deadline_s": 60, "deadline_s": 600}, 60, 600),
        ({"start_deadline_s": 200_000}, 200_000, 200_000),
        ({"delay_s": 100, "deadline_s": 60}, 160, 160),
    ],
)
def test_of_two_deadlines_the_earlier_one_counts(said: dict[str, float], start: float, end: float) -> None:
    made = submit(Kind.IMAGE, **said)

    assert (made.start_deadline, made.deadline) == (at(start), at(end))


def test_a_deadline_beyond_what_the_log_keeps_is_refused_by_its_name() -> None:
    refused = refusal(lambda: submit(deadline_s=LIMITS.horizon_s + 1))

    assert (refused.code, refused.member) == (Code.OUT_OF_RANGE, "deadline_s")


def test_where_it_should_run_is_part_of_the_submission() -> None:
    assert submit(backend="image-2").backend == "image-2"


def test_what_was_left_open_is_fixed_at_submission() -> None:
    assert submit() == ImageSubmission(
        request=ImageRequest(prompt="a red fox", seed=4711),
        tenant="acme",
        fingerprint="f",
        start_deadline=at(86_400),
        deadline=at(LIFE_S),
        run_timeout_s=600,
        max_attempts=3,
    )


@pytest.mark.parametrize("seed", [0, 7, MAX_SEED])
def test_a_seed_that_was_given_is_kept(seed: int) -> None:
    made = submit(seed=seed)

    assert isinstance(made, ImageSubmission)
    assert made.request.seed == seed


def test_a_transcription_has_no_seed_to_draw() -> None:
    made = submit(Kind.SPEECH)

    assert isinstance(made, SpeechSubmission)
    assert made.request == SpeechRequest(artifact="recording")
    assert (made.kind, made.model) == (Kind.SPEECH, "any")


def test_what_was_said_beats_the_settings() -> None:
    made = submit(start_deadline_s=60, run_timeout_s=5, max_attempts=1, user="ada", metadata={"a": [1]})

    assert made.start_deadline == at(60)
    assert made.deadline == at(LIFE_S)
    assert (made.run_timeout_s, made.max_attempts) == (5, 1)
    assert (made.user, made.metadata) == ("ada", {"a": [1]})


def test_who_may_start_late_may_also_finish_late() -> None:
    made = submit(start_deadline_s=LIFE_S + 60)

    assert made.start_deadline == made.deadline == at(LIFE_S + 60)


@pytest.mark.parametrize(
    ("members", "not_before"),
    [
        ({}, None),
        ({"delay_s": 0}, None),
        ({"delay_s": 90}, 90),
        ({"delay_s": 0.25}, 0.25),
        ({"not_before": "2026-11-24T09:01:30Z"}, 90),
        ({"not_before": "2026-11-24T09:00:00Z"}, None),
        ({"not_before": "2020-01-01T00:00:00Z"}, None),
        ({"not_before": "0001-01-01T00:00:00+14:00"}, None),
    ],
)
def test_a_delay_moves_the_start_and_the_deadlines(
    members: dict[str, Any], not_before: float | None
) -> None:
    made = submit(**members)
    begin = at(not_before or 0)

    assert made.not_before == (None if not_before is None else begin)
    assert made.start_deadline == begin + timedelta(seconds=86_400)
    assert made.deadline == begin + timedelta(seconds=LIFE_S)


def test_moments_are_stored_in_utc_whatever_zone_they_came_in() -> None:
    made = submit(not_before="2026-11-24T15:30:00+05:30")

    assert made.not_before == at(3600)
    zones = [moment.tzinfo for moment in (made.not_before, made.start_deadline, made.deadline) if moment]
    assert zones == [UTC] * 3


@pytest.mark.parametrize(
    "members",
    [
        {"delay_s": HORIZON_S - LIFE_S},
        {"start_deadline_s": HORIZON_S},
        {"not_before": "2026-12-05T09:00:00Z"},
    ],
)
def test_a_task_may_live_as_long_as_the_log(members: dict[str, Any]) -> None:
    assert submit(**members).deadline == at(HORIZON_S)


@pytest.mark.parametrize(
    ("members", "member"),
    [
        ({"delay_s": HORIZON_S - LIFE_S + 1}, "delay_s"),
        ({"not_before": "2026-12-05T09:00:01Z"}, "not_before"),
        ({"not_before": "9999-12-31T23:59:59Z"}, "not_before"),
        ({"not_before": "9999-12-31T23:59:59-12:00"}, "not_before"),
        ({"start_deadline_s": HORIZON_S + 1}, "start_deadline_s"),
        ({"start_deadline_s": 1e300}, "start_deadline_s"),
        ({"start_deadline_s": HORIZON_S - 60, "delay_s": 90}, "delay_s"),
    ],
)
def test_a_task_that_would_outlive_the_log_is_refused(members: dict[str, Any], member: str) -> None:
    refused = refusal(lambda: submit(**members))

    assert (refused.code, refused.member) == (Code.OUT_OF_RANGE, member)
    assert "2026-12-07T09:00:00.000Z" in refused.detail


def intakes() -> st.SearchStrategy[Intake]:
    request = st.one_of(strategies.of(ImageRequest), strategies.of(SpeechRequest))
    return st.builds(Intake, request, strategies.of(Common), st.none() | st.just(TASK))


@given(intakes())
def test_the_same_body_has_the_same_fingerprint(taken: Intake) -> None:
    request = msgspec.json.decode(msgspec.json.encode(taken.request), type=type(taken.request))
    common = msgspec.json.decode(msgspec.json.encode(taken.common), type=Common)
    again = Intake(request, common, taken.origin)

    assert intake.fingerprint(again) == intake.fingerprint(taken)


@given(intakes(), intakes())
def test_bodies_that_differ_have_different_fingerprints(one: Intake, other: Intake) -> None:
    assert (intake.fingerprint(one) == intake.fingerprint(other)) == (one == other)


def test_the_order_of_members_is_no_difference() -> None:
    one = intake.flat(Kind.IMAGE, {**PROMPT, "metadata": {"a": 1, "b": 2}, "steps": 4})
    other = intake.flat(Kind.IMAGE, {"steps": 4, "metadata": {"b": 2, "a": 1}, **PROMPT})

    assert intake.fingerprint(one) == intake.fingerprint(other)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a blue fox"},
        {"seed": 1},
        {"user": "ada"},
        {"priority": "low"},
        {"metadata": {"a": None}},
    ],
)
def test_a_changed_member_is_a_difference(change: dict[str, Any]) -> None:
    one = intake.flat(Kind.IMAGE, PROMPT)
    other = intake.flat(Kind.IMAGE, {**PROMPT, **change})

    assert intake.fingerprint(one) != intake.fingerprint(other)


def test_a_member_written_out_at_its_default_is_no_difference() -> None:
    one = intake.flat(Kind.IMAGE, PROMPT)
    other = intake.flat(Kind.IMAGE, {**PROMPT, "steps": 20, "seed": None})

    assert intake.fingerprint(one) == intake.fingerprint(other)


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.integers())))
def test_whatever_a_body_says_it_is_taken_or_refused(raw: dict[str, Any]) -> None:
    for kind in Kind:
        for strict in (True, False):
            refused = refusal_if_any(kind, {**PROMPT, **raw}, strict=strict)
            assert refused is None or refused.member is not None


def refusal_if_any(kind: Kind, raw: dict[str, Any], *, strict: bool) -> RejectedError | None:
    try:
        intake.flat(kind, raw, strict=strict)
    except RejectedError as error:
        return error
    return None
