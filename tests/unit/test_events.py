"""Events on the wire: what was written can be read, whatever has been added since."""

import msgspec
import pytest
from hypothesis import given

from schemas import events
from schemas.errors import UndecodableError
from schemas.events import TOKENS, Progress, TaskEvent
from tests import strategies
from tests.builders import cancelled, started, submitted

EXAMPLE = {"attempt": 1, "backend": "image-1", "dispatcher": "d"}


@given(strategies.events())
def test_the_wire_keeps_every_event_whole(event: TaskEvent) -> None:
    assert events.decode(TOKENS[type(event)], events.encode(event)) == event


@given(strategies.of(Progress))
def test_the_wire_keeps_progress_whole(progress: Progress) -> None:
    assert events.decode_progress(events.encode(progress)) == progress


def test_a_member_that_is_not_known_is_skipped() -> None:
    newer = msgspec.json.encode({**EXAMPLE, "colour": {"of": ["the", "gpu"]}})

    assert events.decode("started", newer) == msgspec.convert(EXAMPLE, events.TaskStarted)


def test_a_member_left_out_has_its_default() -> None:
    assert events.decode("cancelled", b'{"by":"default"}') == cancelled()


def test_members_at_their_defaults_are_not_written() -> None:
    assert events.encode(cancelled()) == b'{"by":"default"}'


def test_an_error_s_class_is_called_class() -> None:
    body = b'{"error":{"code":"x","message":"y","class":"lost"}}'

    assert events.decode("failed", body) == events.TaskFailed(
        error=events.TaskError(code="x", message="y", error_class=events.ErrorClass.LOST)
    )


@pytest.mark.parametrize(
    ("token", "body"),
    [
        ("vanished", events.encode(started())),
        ("started", b"{"),
        ("started", b"[]"),
        ("started", b"{}"),
        ("started", b'{"attempt":"one","backend":"b","dispatcher":"d"}'),
        ("expired", b'{"deadline":"never","due_at":"2026-11-24T09:00:00Z"}'),
        ("expired", b'{"deadline":"total","due_at":"2026-11-24T09:00:00"}'),
        ("submitted", events.encode(submitted()).replace(b'"image"', b'"hologram"')),
        ("started", b"\xff\xfe"),
        ("cancelled", b""),
        ("cancelled", b'{"by":"\xff"}'),
        ("cancelled", b'{"by":"x","more":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    ],
)
def test_what_cannot_be_read_says_so_and_nothing_else(token: str, body: bytes) -> None:
    with pytest.raises(UndecodableError):
        events.decode(token, body)
