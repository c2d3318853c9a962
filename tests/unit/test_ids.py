"""Names of things."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Code, RejectedError
from schemas.ids import artifact_id, derived_task_id, parse_artifact_id, parse_task_id, slug
from tests.builders import TASK


def test_a_canonical_uuid_is_a_task_id() -> None:
    assert parse_task_id(TASK) == TASK


@given(st.uuids())
def test_any_uuid_of_the_standard_is_a_task_id(value: uuid.UUID) -> None:
    text = str(value)
    if value.version not in range(1, 9):  # None where the variant is another
        with pytest.raises(RejectedError):
            parse_task_id(text)
    else:
        assert parse_task_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        TASK.upper(),
        TASK.replace("-", ""),
        f"{{{TASK}}}",
        f"urn:uuid:{TASK}",
        f"{TASK} ",
        f"{TASK}\n",
        TASK[:-1],
        TASK + "0",
        "00000000-0000-0000-0000-000000000000",
        "0199d4e8-7c1a-7000-c000-0123456789ab",
        "0199d4e8-7c1a-7000-8000-0123456789a*",
        "task.>",
    ],
)
def test_anything_else_is_refused_with_the_member_s_name(text: str) -> None:
    with pytest.raises(RejectedError) as refused:
        parse_task_id(text, "origin")

    assert refused.value.code is Code.INVALID_ID
    assert refused.value.member == "origin"


def test_a_key_stands_for_one_id_for_ever() -> None:
    assert derived_task_id("default", "order-17") == "40570266-5b4e-87e8-9297-365f728c7bd3"


@given(st.text(), st.text())
def test_a_derived_id_is_a_uuid_of_version_8(tenant: str, key: str) -> None:
    derived = derived_task_id(tenant, key)
    value = uuid.UUID(derived)

    assert parse_task_id(derived) == derived == str(value)
    assert value.version == 8
    assert value.variant == uuid.RFC_4122
    assert derived == derived_task_id(tenant, key)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_tenants_never_share_a_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (derived_task_id(*one) == derived_task_id(*other)) == (one == other)


def test_a_tenant_and_a_key_cannot_be_shifted_into_one_another() -> None:
    assert derived_task_id("a:", "b") != derived_task_id("a", ":b")


@pytest.mark.parametrize(
    ("model", "token"),
    [
        ("Qwen/Qwen-Image", "qwen-qwen-image"),
        ("sd_xl", "sd_xl"),
        ("Whisper large.v3", "whisper-large-v3"),
        ("a*b>c", "a-b-c"),
        ("--x--", "x"),
        ("Ünïcode", "n-code"),
        ("…", "any"),
    ],
)
def test_a_model_is_spelled_as_one_token(model: str, token: str) -> None:
    assert slug(model) == token


@given(st.text())
def test_a_slug_is_always_safe_in_a_subject_and_stays_itself(model: str) -> None:
    assert re.fullmatch(r"[a-z0-9_-]+", slug(model))
    assert slug(slug(model)) == slug(model)


def test_a_result_is_named_by_task_attempt_and_number() -> None:
    assert artifact_id(TASK, 2, 0) == f"{TASK}-2-0"
    assert parse_artifact_id(artifact_id(TASK, 2, 0)) == f"{TASK}-2-0"


@pytest.mark.parametrize("text", ["", "-x", "a/b", "a b", "..", "a.b", "x" * 129, "a\n", "ä"])
def test_what_never_names_an_artifact_is_none(text: str) -> None:
    assert parse_artifact_id(text) is None
