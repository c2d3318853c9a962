"""Cancelling a task.

The one rule: decided on a lookup and appended after exactly that; who loses the race decides again.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

from schemas import envelope, readmodel
from schemas.commands import CancelTask, Refusal, decide
from schemas.errors import OutcomeUnknownError
from schemas.ids import TaskId
from schemas.subjects import Address, address_of, schedule_subject
from schemas.task import FINAL, Status
from services.api.queries import ReadModel, ReadModelAwayError
from services.api.reads import unknown_task
from services.api.recent import Recent
from services.bus.tasklog import Found, LostRaceError, TaskLog

_ATTEMPTS: Final = 10
CANCELLED: Final = "CANCELLED"


class Outcome(NamedTuple):
    """``name`` as the answer says it; ``sequence`` of the last event, 0 for one that has left the log."""

    name: str
    sequence: int


class Canceller:
    def __init__(
        self,
        tasklog: TaskLog,
        model: ReadModel,
        recent: Recent,
        now: Callable[[], datetime],
        patience_s: float,
    ) -> None:
        self._tasklog = tasklog
        self._model = model
        self._recent = recent
        self._now = now
        self._patience_s = patience_s

    async def cancel(self, task_id: TaskId, by: str, reason: str | None) -> Outcome:
        """Cancel a task; RejectedError(unknown_task), UnavailableError while NATS is away."""
        address, status = self._known(task_id)
        found = await self._tasklog.lookup(task_id, address)
        for _ in range(_ATTEMPTS):
            decision = decide(found.task, CancelTask(by=by, reason=reason), self._now())
            if isinstance(decision, Refusal):
                return Outcome(_refused(decision, status, task_id), found.last)
            try:
                sequence = await self._tasklog.append(
                    _address(found),
                    decision,
                    expected=found.last,
                    patience_s=self._patience_s,
                    more=purge(found),
                )
            except LostRaceError as lost:
                found = lost.found
                continue
            self._recent.note(task_id, sequence)
            return Outcome(CANCELLED, sequence)
        raise OutcomeUnknownError(f"{task_id} changes faster than it can be cancelled")

    def _known(self, task_id: TaskId) -> tuple[Address | None, str | None]:
        """Give what the read model knows: where the task lives, and its status there."""
        try:
            row = self._model.row(readmodel.GET_ADDRESS, task_id)
        except ReadModelAwayError:
            row = None
        return (address_of(row[0]), row[2]) if row else (None, None)


def purge(found: Found) -> dict[str, str] | None:
    """Give the headers that remove a task's schedule together with what ends it."""
    if found.task.status is not Status.SCHEDULED:
        return None
    return envelope.purge_schedule(schedule_subject(found.task.task_id))


def _address(found: Found) -> Address:
    if found.address is None:
        raise TypeError("a task that is there has an address")
    return found.address


def _refused(refusal: Refusal, projected: str | None, task_id: TaskId) -> str:
    """Say what a refusal means; a task that the log has forgotten may still be in the read model."""
    if refusal is not Refusal.UNKNOWN:
        return refusal
    if projected not in FINAL:
        raise unknown_task(task_id)
    return Refusal.ALREADY_CANCELLED if projected == Status.CANCELLED else Refusal.ALREADY_FINISHED
