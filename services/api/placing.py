"""Room for new tasks: the lane of each, and a place in the bound on what waits.

The one rule: what is submitted together gets all its places at once, or none.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from schemas import readmodel
from schemas.errors import Code, RejectedError
from schemas.requests import AnySubmission
from schemas.subjects import Lane
from services.api.admission import Admission, Counted, Place
from services.api.lanes import Lanes
from services.api.outlook import Foresight
from services.api.queries import ReadModel, ReadModelAwayError

Waiting = tuple[Counted, Sequence[int]]


class Placing(Struct, frozen=True, kw_only=True):
    """``last_waiting``: what waited of each kind when the read model was last seen."""

    model: ReadModel
    admission: Admission
    lanes: Lanes
    foresight: Foresight
    last_waiting: dict[str, Counted]

    def reserve(self, submissions: Sequence[AnySubmission]) -> list[Place]:
        """Reserve room for all; RejectedError says of which kind, or of whose, the queue is full."""
        places = list[Place]()
        waiting = dict[tuple[Lane, Lane], Waiting]()
        for submission in submissions:
            lanes, tenant = self.lanes.of(submission), submission.tenant
            if lanes not in waiting:
                waiting[lanes] = self._waiting(lanes, tenant)
            counted, depths = waiting[lanes]
            place = self.admission.reserve(self.admission.shorter(lanes, depths), tenant, counted)
            if isinstance(place, Code):
                self.abort(places)
                raise self._full(place, submission, len(submissions))
            places.append(place)
        return places

    def commit(self, places: Sequence[Place], sequences: Sequence[int]) -> None:
        """Say that the tasks were stored."""
        for place, sequence in zip(places, sequences, strict=True):
            self.admission.commit(place, sequence)

    def abort(self, places: Sequence[Place]) -> None:
        """Say that they were not."""
        for place in places:
            self.admission.abort(place)

    def _waiting(self, lanes: tuple[Lane, Lane], tenant: str) -> Waiting:
        """Give what waits; while the read model is away, by what it said last and what came since."""
        kind = lanes[0].kind
        try:
            row = self.model.row(readmodel.ADMISSION, kind, tenant, lanes[0].name, lanes[1].name)
        except ReadModelAwayError:
            row = None
        if row is None:  # how many of which tenant waited is not kept, since there is no bound on tenants
            return replace(self.last_waiting.get(kind, Counted()), of_tenant=0), (0, 0)
        counted = Counted(*row[:3])
        self.last_waiting[kind] = counted
        return counted, row[3:]

    def _full(self, code: Code, submission: AnySubmission, count: int) -> RejectedError:
        kind, tenant = submission.kind, submission.tenant
        whose = f" of the tenant {tenant}," if code is Code.TENANT_QUEUE_FULL else ""
        how = "is full" if count == 1 else f"has no room for the {count} tasks"
        return RejectedError(
            code,
            f"the queue for {kind}{whose} {how}; nothing was stored",
            retry_after_s=self.foresight.retry_after_s(kind, tenant if whose else None),
        )
