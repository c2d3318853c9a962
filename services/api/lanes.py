"""Which lane a submission goes to, and that the lane is there.

The one rule: a lane's consumer exists before the first ticket is stored in it; once per process is enough.
"""

import asyncio

from schemas.errors import DisconnectedError, OutcomeUnknownError
from schemas.requests import AnySubmission
from schemas.subjects import Lane, lanes_of_tenant
from services.bus.connection import Bus
from services.bus.streams import ensure_lane


class Lanes:
    def __init__(self, bus: Bus, count: int) -> None:
        self._bus = bus
        self._count = count
        self._there: set[Lane] = set()
        self._lock = asyncio.Lock()
        bus.on_reconnect(self._there.clear)

    def of(self, submission: AnySubmission) -> tuple[Lane, Lane]:
        """Give the tenant's two lanes, which are one where there is only one."""
        first, second = lanes_of_tenant(submission.tenant, self._count)
        kind, model, priority = submission.kind, submission.model, submission.priority
        return Lane(kind, model, priority, first), Lane(kind, model, priority, second)

    async def ensure(self, lane: Lane, patience_s: float) -> None:
        """Have a lane made; DisconnectedError when NATS does not answer in time, and nothing was stored."""
        if lane in self._there:
            return
        try:
            async with asyncio.timeout(patience_s), self._lock:
                if lane not in self._there:
                    await ensure_lane(self._bus, lane)
                    self._there.add(lane)
        except (OutcomeUnknownError, TimeoutError):  # a lane may be made twice
            raise DisconnectedError("NATS does not answer; nothing was stored") from None
