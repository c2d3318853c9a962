"""What headers and queries ask for."""

import pytest

from schemas.errors import Code, RejectedError
from services.api import asking


@pytest.mark.parametrize(
    ("header", "wait_s", "respond_async"),
    [
        (None, None, False),
        (b"wait=10", 10, False),
        (b"respond-async, wait=10", 10, True),
        (b"respond-async;wait=5", 5, False),
        (b"Respond-Async", None, True),
        (b'wait="7"', 7, False),
        (b"wait=999999", 60, False),
        (b"wait=-1", None, False),
        (b"handling=lenient", None, False),
        (b"await=3", None, False),
    ],
)
def test_prefer_is_read_and_capped(
    header: bytes | None, wait_s: int | None, *, respond_async: bool
) -> None:
    assert asking.prefer(header) == (wait_s, respond_async)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        (b"bytes=0-0", (0, 1)),
        (b"bytes=0-", (0, 100)),
        (b"bytes=10-19", (10, 20)),
        (b"bytes=90-1000", (90, 100)),
        (b"bytes=-10", (90, 100)),
        (b"bytes=-1000", (0, 100)),
        (b"bytes=99-", (99, 100)),
        (b"bytes=5-2", None),
        (b"bytes=-", None),
        (b"bytes=0-1,4-5", None),
        (b"lines=0-1", None),
        (b"bytes=a-b", None),
    ],
)
def test_one_range_of_bytes_is_understood(header: bytes | None, part: tuple[int, int] | None) -> None:
    assert asking.byte_range(header, 100) == part


@pytest.mark.parametrize("header", [b"bytes=100-", b"bytes=100-200", b"bytes=-0"])
def test_a_range_with_nothing_in_it_is_refused(header: bytes) -> None:
    with pytest.raises(RejectedError) as refused:
        asking.byte_range(header, 100)
    assert refused.value.code is Code.RANGE_NOT_SATISFIABLE


@pytest.mark.parametrize(
    ("header", "same"),
    [
        (None, False),
        (b'"7"', True),
        (b'W/"7"', True),
        (b'"6", "7"', True),
        (b"*", True),
        (b'"8"', False),
        (b"7", False),
    ],
)
def test_if_none_match_compares_weakly(header: bytes | None, *, same: bool) -> None:
    assert asking.matches(header, b'"7"') is same


@pytest.mark.parametrize(
    ("header", "left"),
    [
        (b'"7.1paused"', b'"7.1paused"'),
        (b'"7.1waiting_for_slot~2026-11-24T09:01:00.000Z"', b'"7.1waiting_for_slot"'),
        (b'W/"7~x", "8-3~y"', b'W/"7", "8-3"'),
        (b"*", b"*"),
    ],
)
def test_when_a_task_should_end_can_be_left_out_of_its_tag(header: bytes, left: bytes) -> None:
    assert asking.without_eta(header) == left


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        (b"00-00000000000000000000000000000000-00f067aa0ba902b7-01", False),
        (b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
        (b"nonsense\r\nNats-TTL: 1", False),
        (None, False),
    ],
)
def test_only_a_well_formed_trace_goes_on(header: bytes | None, *, kept: bool) -> None:
    assert (asking.traceparent(header) is not None) is kept


@pytest.mark.parametrize("key", [b"", b"a b", b"\xff", b"x" * 256, b"\x00"])
def test_an_idempotency_key_has_bounds(key: bytes) -> None:
    with pytest.raises(RejectedError) as refused:
        asking.idempotency_key(key)
    assert refused.value.member == "Idempotency-Key"


def test_the_tenant_is_taken_only_from_a_trusted_gateway() -> None:
    assert asking.tenant(b"acme", trusted=False) == "default"
    assert asking.tenant(b"acme", trusted=True) == "acme"
    with pytest.raises(RejectedError):
        asking.tenant(b"Acme.*", trusted=True)


@pytest.mark.parametrize(
    ("accept", "as_json"),
    [
        (None, False),
        (b"*/*", False),
        (b"text/event-stream", False),
        (b"application/json", True),
        (b"application/json, text/event-stream;q=0.5", True),
        (b"application/json;q=0.5, text/event-stream", False),
        (b"application/json, text/event-stream", False),
    ],
)
def test_the_history_is_json_where_that_is_preferred(accept: bytes | None, *, as_json: bool) -> None:
    assert asking.wants_json(accept) is as_json


def test_an_unknown_parameter_names_the_known_ones() -> None:
    with pytest.raises(RejectedError) as refused:
        asking.parameters(b"limt=3", "limit", "cursor")
    assert refused.value.code is Code.UNKNOWN_MEMBER
    assert refused.value.extra["allowed"] == ["cursor", "limit"]


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(RejectedError):
        asking.parameters(b"limit=3&limit=4", "limit")


@pytest.mark.parametrize("text", ["x", "-1", "61", "nan", "inf", ""])
def test_wait_has_bounds(text: str) -> None:
    with pytest.raises(RejectedError) as refused:
        asking.wait_s(text)
    assert refused.value.member == "wait"
