"""A lease: the expiring, exclusive right to one slot of one backend, or to a role; and whose it is now.

The one rule: nobody's clock but one's own is trusted. A lease has no time of expiry; it is stale once its
revision has been watched unchanged for a whole lease time, connected throughout.
"""

from enum import Enum
from typing import Final

import msgspec
from msgspec import Struct

from schemas.ids import TaskId
from schemas.requests import Instant


class Lease(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``holder`` null: released cleanly. The rest tells whoever takes over what still runs there.

    ``holder`` null and ``task_id`` not: left behind by one that stopped, for another to go on with.
    ``recording``: the task that ran there before, while its result is being recorded by the holder.
    """

    holder: str | None = None
    task_id: TaskId | None = None
    attempt: int | None = None
    tenant: str | None = None
    since: Instant | None = None
    expected_end_at: Instant | None = None
    remote_id: str | None = None
    recording: TaskId | None = None


RELEASED: Final = Lease()

encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(Lease).decode


class Sighting(Struct, frozen=True):
    """A lease as it was last seen; ``at`` is when this revision was first seen, on one's own clock.

    ``began`` is the first revision that was seen to name the same attempt.
    """

    lease: Lease
    revision: int
    at: float
    began: int = 0


def seen(before: Sighting | None, lease: Lease, revision: int, at: float) -> Sighting:
    """Take in a newer revision of a lease."""
    same = before is not None and (before.lease.task_id, before.lease.attempt) == (
        lease.task_id,
        lease.attempt,
    )
    return Sighting(lease, revision, at, before.began if before and same else revision)


class Claim(Enum):
    """What may be done with a slot: take it, take it once its GPU is idle, or leave it."""

    FREE = "free"
    STALE = "stale"
    HELD = "held"


def claim(sighting: Sighting | None, *, now: float, connected_since: float, lease_s: float) -> Claim:
    """Say whether a slot may be taken; times are seconds on one's own clock."""
    if sighting is None:
        return Claim.FREE
    if sighting.lease.holder is None:
        return Claim.FREE if sighting.lease.task_id is None else Claim.STALE
    watched_s = now - max(sighting.at, connected_since)
    return Claim.STALE if watched_s >= lease_s else Claim.HELD
