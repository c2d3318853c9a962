"""Which lane a submission goes to, and that the lane is there.

The one rule: a lane's consumer exists before the first ticket is stored in it; once per process is enough.
"""

import asyncio

from schemas import readmodel
from schemas.requests import AnySubmission
from schemas.subjects import Lane, lanes_of_tenant
from services.api.admission import Admission
from services.api.queries import ReadModel, ReadModelAwayError
from services.bus.connection import Bus
from services.bus.streams import ensure_lane


class Lanes:
    def __init__(self, bus: Bus, model: ReadModel, admission: Admission, count: int) -> None:
        self._bus = bus
        self._model = model
        self._admission = admission
        self._count = count
        self._there: set[Lane] = set()
        self._lock = asyncio.Lock()
        bus.on_reconnect(self._there.clear)

    def choose(self, submission: AnySubmission) -> Lane:
        """Give the shorter of the tenant's two lanes."""
        lanes = [
            Lane(submission.kind, submission.model, submission.priority, number)
            for number in dict.fromkeys(lanes_of_tenant(submission.tenant, self._count))
        ]
        return min(lanes, key=self._depth) if len(lanes) > 1 else lanes[0]

    async def ensure(self, lane: Lane) -> None:
        if lane in self._there:
            return
        async with self._lock:
            if lane not in self._there:
                await ensure_lane(self._bus, lane)
                self._there.add(lane)

    def _depth(self, lane: Lane) -> int:
        try:
            projected: int = self._model.rows(readmodel.LANE_DEPTH, lane.name)[0][0]
        except ReadModelAwayError:
            projected = 0
        return projected + self._admission.in_lane(lane)
