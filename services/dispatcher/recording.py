"""From how a call ended to what the log says of it, and what its backend is known for.

The one rule: a result is stored before it is told, and what came too late leaves nothing behind.
"""

import contextlib
from datetime import timedelta
from typing import Final

import structlog
from msgspec import Struct

from schemas.commands import expired
from schemas.errors import UnavailableError
from schemas.events import ErrorClass, TaskDone, TaskError
from schemas.fleet import Condition
from schemas.task import Status, Task
from services import clock
from services.artifacts import ArtifactStore
from services.dispatcher import results
from services.dispatcher.attempt import Interrupted, Reason
from services.dispatcher.backends.base import Failed, Finished, Job
from services.dispatcher.decider import End, FailureStep, after_failure, handed_back
from services.dispatcher.fleet import Fleet
from services.dispatcher.instances import Instance
from services.dispatcher.policies.retry import RetryPolicy
from services.dispatcher.work import Work, persistently
from services.leases import Held
from services.settings import Settings

log = structlog.get_logger()

TIMEOUT: Final = TaskError(
    code="timeout", message="the attempt took longer than its run timeout", error_class=ErrorClass.TRANSIENT
)
INTERNAL: Final = TaskError(
    code="internal", message="the dispatcher failed; its log says how", error_class=ErrorClass.TRANSIENT
)
_CONDITIONS: Final = {
    ErrorClass.BACKEND_DOWN: Condition.DOWN,
    ErrorClass.OVERLOADED: Condition.OVERLOADED,
    ErrorClass.MISCONFIGURED: Condition.MISCONFIGURED,
}
_STRIKES: Final = frozenset({ErrorClass.TRANSIENT, ErrorClass.LOST})


class Prepared(Struct, frozen=True, kw_only=True):
    """An attempt that can be made: ``model`` by the backend's own name, ``cold`` if it has to be loaded.

    ``canary``: by how it ends, its backend's circuit is closed or opened anew.
    """

    job: Job
    model: str
    units: float
    cold: bool
    canary: bool


class Recorder:
    def __init__(self, artifacts: ArtifactStore, fleet: Fleet, settings: Settings) -> None:
        self._artifacts = artifacts
        self._fleet = fleet
        self._keeps = settings.keeps_results
        self._retry = RetryPolicy(
            base=timedelta(seconds=settings.retry_base_s), cap=timedelta(seconds=settings.retry_cap_s)
        )

    def failed_by_us(self, task: Task) -> FailureStep:
        """Decide on a task whose attempt broke something in this dispatcher."""
        return after_failure(task, INTERNAL, now=clock.now(), policy=self._retry)

    async def record(
        self,
        work: Work,
        held: Held,
        attempt: Prepared,
        outcome: Finished | Failed | Interrupted,
        run_s: float,
    ) -> None:
        job = attempt.job
        match outcome:
            case Finished():
                await self._record_done(work, attempt, outcome, run_s)
            case Failed(error=error):
                log.info("attempt.failed", task_id=job.task_id, attempt=job.attempt, code=error.code)
                _blame(work.instance, error, attempt)
                await work.settle(
                    after_failure(
                        work.task,
                        error,
                        now=clock.now(),
                        policy=self._retry,
                        retry_after_s=outcome.retry_after_s,
                    )
                )
            case Interrupted(reason=reason):
                log.info(
                    "attempt.interrupted", task_id=job.task_id, attempt=job.attempt, reason=str(reason)
                )
                await self._record_interrupted(work, held, attempt, reason)

    async def _record_done(self, work: Work, attempt: Prepared, finished: Finished, run_s: float) -> None:
        job, backend = attempt.job, work.instance.backend
        work.instance.served()
        if job.remote_id is None:  # else nobody knows how much of the time was spent without a dispatcher
            self._fleet.ran(
                backend.name, attempt.model, attempt.units, run_s, cold=attempt.cold, keeps=backend.keeps
            )
        keep = self._keeps(backend.kind)
        done: TaskDone = await persistently(
            lambda: results.store(self._artifacts, job, finished, run_s, keep)
        )
        if await work.append(done):
            log.info("task.done", task_id=job.task_id, attempt=job.attempt, run_s=round(run_s, 3))
            await work.ticket.ack()
        else:
            if not _same_attempt(work.task, job):
                with contextlib.suppress(UnavailableError):
                    await results.discard(self._artifacts, done)
            await work.leave()

    async def _record_interrupted(self, work: Work, held: Held, attempt: Prepared, reason: Reason) -> None:
        now = clock.now()
        match reason:
            case Reason.OVER | Reason.TAKEN:
                await persistently(work.look_up)
                await work.leave()
            case Reason.TIMEOUT:
                _blame(work.instance, TIMEOUT, attempt)
                await work.settle(after_failure(work.task, TIMEOUT, now=now, policy=self._retry))
            case Reason.EXPIRED:
                if event := expired(work.task, now):
                    await work.settle(End(event))
            case Reason.LEFT:
                # It runs on, and whoever takes the lease over goes on with it: nothing is done twice.
                await held.leave()
                work.ticket.leave()
            case Reason.SHUTDOWN:
                # The GPU may be at it for long, which whoever takes the lease over waits for.
                await held.leave()
                await work.settle(handed_back(work.task, "shutdown", now=now))


def _blame(instance: Instance, error: TaskError, attempt: Prepared) -> None:
    """Note against a backend what it did; a request that was wrong is nothing against it."""
    if condition := _CONDITIONS.get(error.error_class):
        instance.suspend(condition, error.message)
    elif error.error_class in _STRIKES:
        instance.failed(error.message, canary=attempt.canary)


def _same_attempt(task: Task, job: Job) -> bool:
    """Say whether another dispatcher has gone on with this very attempt: then its results are ours."""
    return task.attempt == job.attempt and task.status in (Status.RUNNING, Status.DONE)
