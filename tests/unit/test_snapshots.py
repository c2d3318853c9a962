"""What a restored stream may lack, and what it may not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.subjects import NANOSECOND
from services.bus.snapshots import Description, State, difference

NOW = datetime(2026, 11, 24, tzinfo=UTC)
HELD = State(messages=10, bytes=1000, last_seq=12, first_ts=NOW - timedelta(days=1))
LOG = {"max_age": 2 * 86_400 * NANOSECOND, "allow_msg_ttl": True, "allow_msg_schedules": True}


def saved(**config: Any) -> Description:  # Any: the JSON of the JetStream API
    state = {
        "messages": HELD.messages,
        "bytes": HELD.bytes,
        "last_seq": HELD.last_seq,
        "first_ts": "2026-11-23T00:00:00.123456789Z",
        "consumer_count": 0,
    }
    return Description({"name": "S", **config}, state)


@pytest.mark.parametrize(
    "found",
    [
        HELD,
        replace(HELD, last_seq=13),  # a schedule has fired: one message went, one came
        replace(HELD, last_seq=14, messages=11, bytes=1100),
    ],
)
def test_a_stream_that_holds_the_same_or_is_ahead_lacks_nothing(found: State) -> None:
    assert difference(saved(**LOG), found, NOW) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (replace(HELD, last_seq=11), "ends at sequence 11, not 12"),
        (replace(HELD, messages=9), "has 9 messages, not 10"),
        (replace(HELD, bytes=999), "has 999 bytes, not 1000"),
    ],
)
def test_what_is_lacking_is_said(found: State, said: str) -> None:
    assert difference(saved(**LOG), found, NOW) == said


@pytest.mark.parametrize(
    ("config", "later"), [(LOG, timedelta(days=2)), ({"allow_msg_ttl": True}, timedelta())]
)
def test_what_has_expired_since_is_not_missed(config: dict[str, Any], later: timedelta) -> None:
    fewer = replace(HELD, messages=9, bytes=900)

    assert difference(saved(**config), fewer, NOW + later) is None
    assert difference(saved(**config), replace(fewer, last_seq=11), NOW + later)
