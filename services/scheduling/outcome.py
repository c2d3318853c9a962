"""How a policy did: what is measured of a replay, and how.

The one rule: a figure says exactly what it counts.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

_SHARES: Final = (0.5, 0.95, 0.99)


class Percentiles(Struct, frozen=True, kw_only=True):
    """Seconds that half, 95 and 99 of a hundred stay within."""

    p50: float
    p95: float
    p99: float


class Outcome(Struct, frozen=True, kw_only=True):
    """What a policy made of it. ``waiting`` until the start, ``total`` until the end, in seconds.

    ``utilisation`` is the share of its slots' time that each GPU was busy, loads included, from the first
    arrival to the last end. ``loads`` counts runs that began with the load of a model. ``eta_error`` is how
    far off the end was that was foretold at the start, to either side. ``unserved`` tasks no GPU could run.

    ``fairness`` is Jain's index over tenants, (sum x)^2 / (n * sum x^2): 1 when all are served alike, 1/n
    when one gets everything. x is the GPU seconds that a tenant's tasks ran, of all kinds, while every one
    of the n tenants had a task waiting; None when that never was, or there is one tenant.
    """

    policy: str
    tasks: int
    waiting: Percentiles
    total: Percentiles
    utilisation: Mapping[str, float]
    loads: int
    fairness: float | None
    eta_error: Percentiles
    unserved: int = 0


def percentiles(seconds: Iterable[float]) -> Percentiles:
    """Give the least seconds that so many of a hundred do not exceed; 0 of nothing."""
    ordered = sorted(seconds) or [0.0]
    p50, p95, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in _SHARES)
    return Percentiles(p50=p50, p95=p95, p99=p99)


class Tenants:
    """Who waits, who runs, and the GPU seconds of each while all of them waited."""

    def __init__(self, tenants: Iterable[str]) -> None:
        self._waiting = dict.fromkeys(tenants, 0)
        self._idle = len(self._waiting)
        self._running: defaultdict[str, int] = defaultdict(int)
        self._had_s: defaultdict[str, float] = defaultdict(float)

    def wait(self, tenant: str, more: int) -> None:
        before = self._waiting[tenant]
        self._waiting[tenant] = before + more
        self._idle += (before + more == 0) - (before == 0)

    def run(self, tenant: str, more: int) -> None:
        self._running[tenant] += more

    def passed(self, seconds: float) -> None:
        """Take in that so much time went by."""
        if not self._idle:
            for tenant, count in self._running.items():
                self._had_s[tenant] += count * seconds

    def fairness(self) -> float | None:
        had = [self._had_s[tenant] for tenant in self._waiting]
        if len(had) < 2 or not any(had):  # noqa: PLR2004 - nobody to compare with
            return None
        return sum(had) ** 2 / (len(had) * sum(x * x for x in had))
