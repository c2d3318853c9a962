"""Tickets in hand whose tenants have as many tasks running as they may: kept until one has ended. Pure.

The one rule: who leaves goes back to the server, and takes its turn there among all.
"""

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from schemas.subjects import Lane
from services.bus.tickets import Ticket

MOST_KEPT: Final = 256
"""Of one tenant."""
KEPT_S: Final = 20.0
"""A ticket goes back after so long, before its ack_wait ends: others may have begun a later one."""


class _Kept(Struct, frozen=True):
    ticket: Ticket
    until: float


class Capped:
    """Moments are seconds on one's own clock."""

    def __init__(self) -> None:
        self._kept: dict[str, list[_Kept]] = {}

    def put(self, ticket: Ticket, tenant: str, now: float) -> bool:
        """Keep a ticket; False where there are too many of that tenant."""
        kept = self._kept.setdefault(tenant, [])
        if len(kept) >= MOST_KEPT:
            return False
        insort(kept, _Kept(ticket, now + KEPT_S), key=lambda each: each.ticket.sequence)
        return True

    def leave(self, now: float, room: Callable[[str], int]) -> list[Ticket]:
        """Take out the first of each tenant, as many as it has ``room`` for, and whose time is over."""
        going = []
        for tenant, kept in tuple(self._kept.items()):
            free = max(0, room(tenant))
            going += [*kept[:free], *(each for each in kept[free:] if each.until <= now)]
            kept[:] = [each for each in kept[free:] if each.until > now]
            if not kept:
                del self._kept[tenant]
        return [each.ticket for each in going]

    def clear(self) -> list[Ticket]:
        """Take out all."""
        return self.leave(math.inf, lambda _: 0)

    @property
    def lanes(self) -> Counter[Lane]:
        """Count what is kept, by lane."""
        return Counter(each.ticket.address.lane for kept in self._kept.values() for each in kept)
