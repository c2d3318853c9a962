"""How many tasks there are, as the API shows it.

The one rule: the members are the statuses, in lower case; one in which no task is has 0.
"""

from msgspec import Struct


class KindCounts(Struct, frozen=True, kw_only=True):
    """How many tasks of a kind are in each status."""

    kind: str
    scheduled: int = 0
    queued: int = 0
    running: int = 0
    retrying: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0


class Counts(Struct, frozen=True):
    """As they were right after the event of that ``sequence``."""

    counts: tuple[KindCounts, ...]
    sequence: int
