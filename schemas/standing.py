"""Where a task stands that has not ended: its place in line, when it should be done, and why it waits.

The one rule: it is worked out as it is read and stored nowhere, since it changes without an event.
"""

from enum import StrEnum

from msgspec import Struct

from schemas import envelope
from schemas.requests import Instant


class Why(StrEnum):
    """What holds a task back now, the first of these that is so; or that nothing does: RUNNING."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    NO_BACKEND = "no_backend"
    RETRY_DELAY = "retry_delay"
    TENANT_CAP = "tenant_cap"
    WAITING_FOR_SLOT = "waiting_for_slot"


class Standing(Struct, frozen=True):
    """``position`` from 1 among those of its kind and priority, null where it is in no line.

    ``eta_at`` is when the task should have ended, in whole seconds, null where that cannot be foretold.
    """

    position: int | None
    eta_at: str | None
    why: Why


def standing(position: int | None, eta_at: Instant | None, why: Why) -> Standing:
    """Spell a standing; ``eta_at`` in whole seconds."""
    return Standing(position, envelope.timestamp(eta_at) if eta_at else None, why)
