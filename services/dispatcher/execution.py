"""An attempt: started in the log, called, watched over, and its outcome recorded.

The one rule: the GPU is called only after TaskStarted is stored, and only under a lease that is good.
"""

import asyncio
import contextlib
from datetime import timedelta
from typing import Final

import structlog
from msgspec.structs import replace

from schemas.commands import expired
from schemas.errors import UnavailableError
from schemas.events import ErrorClass, TaskAttached, TaskDone, TaskError, TaskFailed, TaskStarted
from schemas.ids import TaskId
from schemas.lease import Lease
from schemas.requests import AnySubmission
from schemas.subjects import ACK_WAIT_S
from schemas.task import Task
from services import clock
from services.artifacts import ArtifactStore
from services.bus.connection import Bus
from services.dispatcher import results
from services.dispatcher.attempt import Attending, Interrupted, Reason
from services.dispatcher.backends.base import Attached, Failed, Finished, Job, Progressed
from services.dispatcher.decider import End, FailureStep, after_failure, handed_back
from services.dispatcher.fleet import Speeds, units_of_work
from services.dispatcher.instances import Instance
from services.dispatcher.policies.health import Condition
from services.dispatcher.policies.retry import RetryPolicy
from services.dispatcher.progress import Reporter
from services.dispatcher.results import MissingInputError
from services.dispatcher.work import Work, persistently
from services.leases import Held
from services.process import background
from services.settings import Settings

log = structlog.get_logger()

TICK_S: Final = 0.5
KEEP_S: Final = ACK_WAIT_S / 3
CONNECTION_LOST: Final = "connection_lost"
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


class Execution:
    """Runs attempts; ``running`` are those under way, by task."""

    def __init__(self, bus: Bus, artifacts: ArtifactStore, settings: Settings, dispatcher: str) -> None:
        self._bus = bus
        self._artifacts = artifacts
        self._settings = settings
        self._dispatcher = dispatcher
        self._retry = RetryPolicy(
            base=timedelta(seconds=settings.retry_base_s), cap=timedelta(seconds=settings.retry_cap_s)
        )
        self.speeds = Speeds()
        self.running: dict[TaskId, Attending] = {}

    async def run(self, work: Work, number: int) -> None:
        """Make attempt ``number``; returns when the slot is free again."""
        submission = work.task.submission
        held = work.slot.holds()
        adapter = work.instance.adapter
        if submission is None or held is None or adapter is None:
            await work.ticket.give_back()
            return
        try:
            job = await self._job(work, submission, number)
        except MissingInputError as error:
            gone = TaskError(code="input_gone", message=str(error))
            await work.settle(End(TaskFailed(error=gone, attempts=work.task.attempts)))
            return
        lease = self._lease(held, submission, job)
        started = TaskStarted(
            attempt=number, backend=work.instance.backend.name, dispatcher=self._dispatcher
        )
        appended, kept = await asyncio.gather(work.append(started), held.write(lease))
        if not appended:
            await work.leave()
            return
        if not kept or not held.valid:
            await work.settle(handed_back(work.task, "lease_lost", now=clock.now()))
            return
        log.info("task.started", task_id=job.task_id, attempt=number, backend=work.instance.backend.name)
        attending = Attending(adapter.call(job))
        self.running[job.task_id] = attending
        try:
            await self._attend(work, held, job, attending)
        finally:
            if self.running.get(job.task_id) is attending:
                del self.running[job.task_id]

    def failed_by_us(self, task: Task) -> FailureStep:
        """Decide on a task whose attempt broke something in this dispatcher."""
        return after_failure(task, INTERNAL, now=clock.now(), policy=self._retry)

    async def _job(self, work: Work, submission: AnySubmission, number: int) -> Job:
        backend = work.instance.backend
        lane = work.ticket.address.lane
        job = Job(
            task_id=work.task.task_id,
            attempt=number,
            request=submission.request,
            model=backend.model_named(lane.model) or next(iter(backend.model_names), None),
        )
        job = await persistently(lambda: results.with_audio(self._artifacts, job, submission.request))
        return replace(job, expected_s=self.speeds.expected_s(backend.name, lane.model, _units(job)))

    def _lease(self, held: Held, submission: AnySubmission, job: Job) -> Lease:
        now = clock.now()
        expected_s = job.expected_s or self._settings.unknown_run_s
        return Lease(
            holder=held.lease.holder,
            task_id=job.task_id,
            attempt=job.attempt,
            tenant=submission.tenant,
            since=now,
            expected_end_at=now + timedelta(seconds=expected_s),
        )

    async def _attend(self, work: Work, held: Held, job: Job, attending: Attending) -> None:
        reporter = Reporter(self._bus, job.task_id, job.attempt, job.expected_s)
        loop = asyncio.get_running_loop()
        begun_at = loop.time()

        async def on_report(report: Attached | Progressed) -> None:
            match report:
                case Attached(remote_id=remote_id):
                    await held.write(replace(held.lease, remote_id=remote_id))
                    attached = TaskAttached(
                        attempt=job.attempt, dispatcher=self._dispatcher, remote_id=remote_id
                    )
                    if not await work.append(attached):
                        attending.interrupt(Reason.OVER)
                case Progressed():
                    await reporter.measured(report)

        async with background(self._watch_over(work, attending, reporter, begun_at)):
            outcome = await attending.outcome(on_report)
            await self._record(work, job, outcome, loop.time() - begun_at)
        if isinstance(outcome, Interrupted):
            await self._let_go(work, attending, outcome.reason)
        elif isinstance(outcome, Failed) and outcome.error.code == CONNECTION_LOST:
            await self.drain_lost(work.instance, held.lease)

    async def _record(
        self, work: Work, job: Job, outcome: Finished | Failed | Interrupted, run_s: float
    ) -> None:
        match outcome:
            case Finished():
                await self._record_done(work, job, outcome, run_s)
            case Failed(error=error):
                log.info("attempt.failed", task_id=job.task_id, attempt=job.attempt, code=error.code)
                if condition := _CONDITIONS.get(error.error_class):
                    work.instance.suspend(condition, error.message)
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
                await self._record_interrupted(work, reason)

    async def _record_done(self, work: Work, job: Job, finished: Finished, run_s: float) -> None:
        work.instance.served()
        backend, model = work.instance.backend.name, work.ticket.address.lane.model
        self.speeds = self.speeds.learned(backend, model, _units(job), run_s)
        done: TaskDone = await persistently(lambda: results.store(self._artifacts, job, finished, run_s))
        if await work.append(done):
            log.info("task.done", task_id=job.task_id, attempt=job.attempt, run_s=round(run_s, 3))
            await work.ticket.ack()
        else:
            with contextlib.suppress(UnavailableError):
                await results.discard(self._artifacts, done)
            await work.leave()

    async def _record_interrupted(self, work: Work, reason: Reason) -> None:
        now = clock.now()
        match reason:
            case Reason.OVER:
                await persistently(work.look_up)
                await work.leave()
            case Reason.TIMEOUT:
                await work.settle(after_failure(work.task, TIMEOUT, now=now, policy=self._retry))
            case Reason.EXPIRED:
                if event := expired(work.task, now):
                    await work.settle(End(event))
            case Reason.SHUTDOWN:
                await work.settle(handed_back(work.task, "shutdown", now=now))

    async def _let_go(self, work: Work, attending: Attending, reason: Reason) -> None:
        """Wait until a stopped call has ended, unless there is no time for that: then the lease stays."""
        if reason is Reason.SHUTDOWN:
            await attending.abandon()
            return
        log.info("slot.draining", slot=work.slot.key, reason=str(reason))
        await attending.drained()
        log.info("slot.drained", slot=work.slot.key)

    async def _watch_over(
        self, work: Work, attending: Attending, reporter: Reporter, begun_at: float
    ) -> None:
        """Keep the ticket, look for an end that we were not told of, and mind the time."""
        loop = asyncio.get_running_loop()
        submission = work.task.submission
        timeout_s = submission.run_timeout_s if submission else self._settings.run_timeout_s
        kept_at = begun_at
        while True:
            await asyncio.sleep(TICK_S)
            await reporter.estimate()
            if loop.time() - begun_at >= timeout_s:
                attending.interrupt(Reason.TIMEOUT)
            if expired(work.task, clock.now()):
                attending.interrupt(Reason.EXPIRED)
            if loop.time() - kept_at >= KEEP_S:
                kept_at = loop.time()
                await work.ticket.keep()
                if await self._is_over(work):
                    attending.interrupt(Reason.OVER)

    async def _is_over(self, work: Work) -> bool:
        """Look whether the task has ended without our having heard of it."""
        try:
            task = await work.peek()
        except UnavailableError:
            return False
        return task.final or task.attempt > work.task.attempt

    async def drain_lost(self, instance: Instance, lost: Lease) -> None:
        """Wait until what a lost attempt left on a GPU has ended: by its own signal, else by the clock."""
        until = lost.expected_end_at or clock.now() + timedelta(seconds=self._settings.unknown_run_s)
        while instance.adapter is not None:
            idle = await instance.adapter.idle(lost.remote_id)
            rest_s = (until - clock.now()).total_seconds()
            if idle or (idle is None and rest_s <= 0):
                return
            await asyncio.sleep(1.0 if idle is False else min(1.0, rest_s))


def _units(job: Job) -> float:
    return units_of_work(job.request, job.audio.size if job.audio else 0)
