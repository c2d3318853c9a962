"""Whose a slot is."""

import pytest

from schemas import lease
from schemas.lease import RELEASED, Claim, Lease, Sighting, claim
from tests.builders import T0, TASK

LEASE_S = 15.0
HELD = Lease(holder="dispatcher-b", task_id=TASK, attempt=1, tenant="acme", since=T0)


@pytest.mark.parametrize(
    ("sighting", "now", "connected_since", "expected"),
    [
        (None, 0, 0, Claim.FREE),
        (Sighting(RELEASED, 3, 0), 0, 0, Claim.FREE),
        (Sighting(RELEASED, 3, 0), 0, float("inf"), Claim.FREE),
        (Sighting(HELD, 3, 100), 100, 0, Claim.HELD),
        (Sighting(HELD, 3, 100), 114.9, 0, Claim.HELD),
        (Sighting(HELD, 3, 100), 115, 0, Claim.STALE),
        (Sighting(HELD, 3, 100), 500, 0, Claim.STALE),
        # The server was away meanwhile: nobody could renew, so the time starts anew.
        (Sighting(HELD, 3, 100), 500, 490, Claim.HELD),
        (Sighting(HELD, 3, 100), 505, 490, Claim.STALE),
        (Sighting(HELD, 3, 100), 500, float("inf"), Claim.HELD),
    ],
)
def test_a_slot_is_taken_over_only_after_a_lease_time_of_watching(
    sighting: Sighting | None, now: float, connected_since: float, expected: Claim
) -> None:
    assert claim(sighting, now=now, connected_since=connected_since, lease_s=LEASE_S) is expected


@pytest.mark.parametrize("value", [RELEASED, HELD, Lease(holder="a", expected_end_at=T0, remote_id="job")])
def test_a_lease_reads_back(value: Lease) -> None:
    assert lease.decode(lease.encode(value)) == value


def test_a_released_lease_says_nothing() -> None:
    assert lease.encode(RELEASED) == b"{}"
