"""How long a slot is busy still.

The one rule: nobody waits for ever for what does not end.
"""

from datetime import datetime
from typing import Final

from schemas.lease import Lease

_SHORTEST_S: Final = 0.05
_OVERDUE_SHARE: Final = 0.5


def rest_s(lease: Lease | None, now: datetime, unknown_s: float) -> float:
    """Give the seconds until a slot should be free; ``unknown_s`` where nothing is known of its work."""
    if lease is None or lease.expected_end_at is None:
        return unknown_s
    return still_s((lease.expected_end_at - now).total_seconds())


def still_s(left_s: float) -> float:
    """Give how long a run will take still, of which so much was expected to be left; negative: overdue.

    What is overdue is expected to take half as long again as it is late.
    """
    return max(_SHORTEST_S, left_s if left_s > 0 else -left_s * _OVERDUE_SHARE)
