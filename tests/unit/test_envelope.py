"""The headers around an event."""

from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import envelope
from schemas.events import TOKENS
from schemas.ids import EventId
from tests.builders import T0, TASK, at, started, submitted


def headers(source: str = "api-1", traceparent: str | None = None) -> dict[str, str]:
    return envelope.attributes(
        submitted(), task_id=TASK, event_id=EventId("e-1"), source=source, at=T0, traceparent=traceparent
    )


def test_an_event_s_headers_name_it_as_cloudevents_do() -> None:
    assert headers() == {
        "ce-specversion": "1.0",
        "ce-id": "e-1",
        "ce-type": "taskfold.task.submitted.v1",
        "ce-source": "api-1",
        "ce-subject": TASK,
        "ce-time": "2026-11-24T09:00:00.000Z",
        "ce-datacontenttype": "application/json",
        "Nats-Msg-Id": "e-1",
    }


def test_every_event_has_a_type_of_its_own() -> None:
    assert len({envelope.event_type(event) for event in TOKENS}) == len(TOKENS)


def test_a_trace_goes_along_when_there_is_one() -> None:
    assert headers(traceparent="00-ab-cd-01")["traceparent"] == "00-ab-cd-01"


@pytest.mark.parametrize(
    ("source", "quoted"),
    [
        ("urn:api/1?x=y&z", "urn:api/1?x=y&z"),
        ("the api", "the%20api"),
        ('"api"', "%22api%22"),
        ("100%", "100%25"),
        ("Gerät", "Ger%C3%A4t"),
        ("a\r\nb", "a%0D%0Ab"),
    ],
)
def test_a_source_is_quoted_where_cloudevents_wants_it(source: str, quoted: str) -> None:
    assert headers(source)["ce-source"] == quoted


@given(st.text())
def test_a_quoted_source_is_printable_and_reads_back(source: str) -> None:
    quoted = headers(source)["ce-source"]

    assert all(0x21 <= ord(letter) <= 0x7E for letter in quoted)
    assert unquote(quoted) == source


def test_a_guard_names_what_must_come_before() -> None:
    assert envelope.guarded(17, "task.a.b.c.0.d.*") == {
        "Nats-Expected-Last-Subject-Sequence": "17",
        "Nats-Expected-Last-Subject-Sequence-Subject": "task.a.b.c.0.d.*",
    }


def test_a_schedule_lives_until_it_fires() -> None:
    assert envelope.schedule(at(90), "task.target") == {
        "Nats-Schedule": "@at 2026-11-24T09:01:30.000Z",
        "Nats-Schedule-Target": "task.target",
        "Nats-TTL": "never",
    }


def test_a_schedule_is_removed_by_the_event_that_ends_its_task() -> None:
    assert envelope.purge_schedule("sched.x") == {
        "Nats-Schedule-Next": "purge",
        "Nats-Scheduler": "sched.x",
    }


def test_a_timestamp_is_utc_in_milliseconds() -> None:
    assert envelope.timestamp(T0 + timedelta(microseconds=123_999)) == "2026-11-24T09:00:00.123Z"


@given(st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - the bound is naive, the values are not
def test_a_timestamp_reads_back_to_the_millisecond(moment: datetime) -> None:
    read = datetime.fromisoformat(envelope.timestamp(moment))

    assert timedelta(0) <= moment - read < timedelta(milliseconds=1)


def test_a_timestamp_is_utc_whatever_zone_it_was_given_in() -> None:
    berlin = T0.astimezone(timezone(timedelta(hours=1)))

    assert envelope.timestamp(berlin) == envelope.timestamp(T0)


def test_timestamps_sort_as_their_moments_do() -> None:
    moments = [T0, at(0.001), at(0.5), at(1), at(60)]

    assert sorted(map(envelope.timestamp, moments)) == [envelope.timestamp(m) for m in moments]


@pytest.mark.parametrize(
    ("found", "event_id"), [(None, None), ({}, None), ({"ce-id": ""}, None), ({"ce-id": "e-1"}, "e-1")]
)
def test_an_event_s_id_is_read_from_its_headers(found: dict[str, str] | None, event_id: str | None) -> None:
    assert envelope.event_id(found) == event_id


def test_the_type_in_the_header_is_made_from_the_token() -> None:
    assert envelope.event_type(type(started())) == f"taskfold.task.{TOKENS[type(started())]}.v1"
