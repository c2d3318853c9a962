"""Whose turn it is in each kind, by what the leases show of the tasks that run.

The one rule: nobody is asked. A dispatcher's own accounts may differ, most of all right after a start.
"""

from collections.abc import Mapping

from schemas import readmodel
from schemas.ids import TaskId
from schemas.lease import Lease
from schemas.requests import Kind
from schemas.subjects import Lane, address_of
from services.api.queries import ReadModel
from services.scheduling.outlook import Onlooker
from services.settings import Settings


class Onlooking:
    def __init__(self, model: ReadModel, settings: Settings) -> None:
        self._model = model
        self._unknown_s = settings.unknown_run_s
        self._lanes: dict[TaskId, Lane] = {}
        self.of: Mapping[str, Onlooker] = {kind: Onlooker(kind, settings.priority) for kind in Kind}

    def look(self, running: Mapping[TaskId, Lease]) -> None:
        """Take in what runs now; ReadModelAwayError where it cannot be read what that is."""
        known = {task_id: lane for task_id in running if (lane := self._lane(task_id))}
        self._lanes = known
        for kind, onlooker in self.of.items():
            onlooker.ran(
                {
                    f"{task_id}.{running[task_id].attempt}": (lane, self._expected_s(running[task_id]))
                    for task_id, lane in known.items()
                    if lane.kind == kind
                }
            )

    def _lane(self, task_id: TaskId) -> Lane | None:
        if found := self._lanes.get(task_id):
            return found
        row = self._model.row(readmodel.GET_ADDRESS, task_id)
        return address_of(row[0]).lane if row else None

    def _expected_s(self, lease: Lease) -> float:
        if lease.since is None or lease.expected_end_at is None:
            return self._unknown_s
        return max(0.0, (lease.expected_end_at - lease.since).total_seconds())
