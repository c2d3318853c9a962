"""What a task was submitted with, so that it can be submitted again.

The one rule: the read model is asked first, which keeps finished tasks for longer than the log does.
"""

from msgspec import Struct

from schemas import readmodel, views
from schemas.errors import Code, RejectedError
from schemas.ids import TaskId
from schemas.requests import AnySubmission, Instant
from schemas.task import Status, fold
from services.api.queries import ReadModel, ReadModelAwayError
from services.api.reads import unknown_task
from services.bus.tasklog import TaskLog


class Origin(Struct, frozen=True):
    task_id: TaskId
    made: AnySubmission
    submitted_at: Instant | None


class _State(Struct, frozen=True):
    submission: AnySubmission | None = None
    submitted_at: Instant | None = None
    erased: bool = False


class Origins:
    def __init__(self, model: ReadModel, tasklog: TaskLog) -> None:
        self._model = model
        self._tasklog = tasklog

    async def get(self, task_id: TaskId) -> Origin:
        """Give what a task was submitted with, whatever became of it; RejectedError(unknown_task)."""
        state = self._projected(task_id) or await self._streamed(task_id)
        if state.erased:
            raise RejectedError(Code.ERASED, f"the content of {task_id} has been erased", task_id=task_id)
        if state.submission is None:
            raise RejectedError(
                Code.NO_RESULT, f"what {task_id} was submitted with cannot be read", task_id=task_id
            )
        return Origin(task_id, state.submission, state.submitted_at)

    def _projected(self, task_id: TaskId) -> _State | None:
        try:
            row = self._model.row(readmodel.FIRST_EVENT, task_id)
        except ReadModelAwayError:
            return None
        if row is None:
            return None
        task = fold(task_id, [views.recorded(row[0])])
        return _State(task.submission, task.submitted_at, task.erased_at is not None)

    async def _streamed(self, task_id: TaskId) -> _State:
        task = (await self._tasklog.lookup(task_id)).task
        if task.status is Status.ABSENT:
            raise unknown_task(task_id)
        return _State(task.submission, task.submitted_at)
