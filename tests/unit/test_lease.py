"""Whose a slot is."""

import pytest

from schemas import lease
from schemas.lease import RELEASED, Claim, Lease, Sighting, claim, seen
from tests.builders import OTHER, T0, TASK

LEASE_S = 15.0
HELD = Lease(holder="dispatcher-b", task_id=TASK, attempt=1, tenant="acme", since=T0)
LEFT = Lease(task_id=TASK, attempt=1, remote_id="job")


@pytest.mark.parametrize(
    ("sighting", "now", "connected_since", "expected"),
    [
        (None, 0, 0, Claim.FREE),
        (Sighting(RELEASED, 3, 0), 0, 0, Claim.FREE),
        (Sighting(RELEASED, 3, 0), 0, float("inf"), Claim.FREE),
        # Left behind by one that stopped: there is nobody to wait for.
        (Sighting(LEFT, 3, 100), 100, 0, Claim.STALE),
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


def test_an_attempt_began_with_the_revision_that_named_it_first() -> None:
    first = seen(None, HELD, 7, 100)
    renewed = seen(first, HELD, 9, 105)
    assert (renewed.began, renewed.revision, renewed.at) == (7, 9, 105)

    another = seen(renewed, Lease(holder="dispatcher-b", task_id=OTHER, attempt=1), 11, 110)
    assert another.began == 11
    assert seen(another, Lease(holder="dispatcher-b", task_id=OTHER, attempt=2), 12, 111).began == 12
