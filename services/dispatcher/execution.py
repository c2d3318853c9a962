"""An attempt: started in the log, called, watched over, and its outcome recorded.

The one rule: the GPU is called only after TaskStarted is stored, and only under a lease that is good.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

import structlog
from msgspec.structs import replace

from schemas.commands import expired
from schemas.errors import UnavailableError
from schemas.events import TaskAttached, TaskError, TaskFailed, TaskStarted
from schemas.ids import ANY_MODEL, TaskId
from schemas.lease import Lease
from schemas.requests import AnySubmission
from schemas.subjects import ACK_WAIT_S
from schemas.task import Status, Task
from schemas.work import units
from services import clock
from services.artifacts import ArtifactStore
from services.bus.connection import Bus
from services.dispatcher import results
from services.dispatcher.attempt import Attending, Interrupted, Reason
from services.dispatcher.backends.base import Attached, Failed, Finished, Job, Previewed, Progressed
from services.dispatcher.decider import End, handed_back
from services.dispatcher.draining import drain_lost, minded
from services.dispatcher.fleet import Fleet
from services.dispatcher.instances import Slot
from services.dispatcher.progress import Reporter
from services.dispatcher.recording import Prepared, Recorder
from services.dispatcher.registry import Registry
from services.dispatcher.results import MissingInputError
from services.dispatcher.work import Work, persistently
from services.leases import Held, Leases
from services.process import background
from services.scheduling.estimates import is_cold, runs_as
from services.settings import Settings

log = structlog.get_logger()

TICK_S: Final = 0.5
KEEP_S: Final = ACK_WAIT_S / 3
HEAD_START_S: Final = 0.01
"""What a task that follows at once is given before the result of the last is recorded: both want the same
processor and disk, and only the one keeps a GPU waiting."""
CONNECTION_LOST: Final = "connection_lost"
_AT_ONCE: Final = frozenset({Reason.SHUTDOWN, Reason.LEFT, Reason.TAKEN})


class Execution:
    """Runs attempts; ``running`` are those under way, by task."""

    def __init__(
        self,
        bus: Bus,
        artifacts: ArtifactStore,
        leases: Leases,
        registry: Registry,
        fleet: Fleet,
        recorder: Recorder,
        settings: Settings,
    ) -> None:
        self._bus = bus
        self._artifacts = artifacts
        self._leases = leases
        self._registry = registry
        self._fleet = fleet
        self._settings = settings
        self._dispatcher = fleet.name
        self._recorder = recorder
        self.running: dict[TaskId, Attending] = {}

    async def run(self, work: Work, number: int) -> bool:
        """Make attempt ``number``; returns when all is recorded and the GPU free again.

        False: the task's tenant has as many running as it may, and its ticket is still in hand.
        """
        submission = work.task.submission
        held = work.slot.holds()
        if submission is None or held is None or work.instance.adapter is None:
            await work.ticket.give_back()
            return True
        try:
            attempt = await self._prepared(work, submission, number)
        except MissingInputError as error:
            gone = TaskError(code="input_gone", message=str(error))
            await work.settle(End(TaskFailed(error=gone, attempts=work.task.attempts)))
            return True
        lease = self._lease(work.slot, held, submission, attempt.job)
        if not await self._admitted(held, lease):
            return False
        started = TaskStarted(
            attempt=number,
            backend=work.instance.backend.name,
            dispatcher=self._dispatcher,
            model=attempt.model,
            units=round(attempt.units, 4),
            decision=work.seat.decision,
        )
        appended, kept = await asyncio.gather(work.append(started), held.write(lease))
        if not appended:
            await work.leave()
        elif not kept or not held.valid:
            await work.settle(handed_back(work.task, "lease_lost", now=clock.now()))
        else:
            log.info(
                "task.started",
                task_id=work.task.task_id,
                attempt=number,
                backend=work.instance.backend.name,
            )
            self._fleet.starting(work.instance.backend.name, attempt.model, work.instance.backend.keeps)
            await self._call(work, held, attempt)
        return True

    async def go_on(self, work: Work, remote_id: str) -> bool:
        """Go on with an attempt that was begun by another dispatcher, which is fenced off first.

        False: the task has gone on without us, and what it left on the GPU is still to be waited for.
        """
        submission = work.task.submission
        held = work.slot.holds()
        if submission is None or held is None:
            return False
        number = work.task.attempt
        attached = TaskAttached(attempt=number, dispatcher=self._dispatcher, remote_id=remote_id)
        if not await work.append(attached):
            return False
        log.info("task.gone_on_with", task_id=work.task.task_id, attempt=number, remote_id=remote_id)
        attempt = await self._prepared(work, submission, number)
        job = replace(attempt.job, remote_id=remote_id)
        await self._call(work, held, replace(attempt, job=job, canary=False))
        return True

    async def _admitted(self, held: Held, lease: Lease) -> bool:
        """Say whether the tenant may have one more running, by the order in which leases are written."""
        most = self._settings.tenant_running_limit
        if most is None or lease.tenant is None:
            return True
        if self._leases.begun(lease.tenant, besides=held) >= most:
            return False
        before = held.lease
        if not await held.write(lease) or not held.valid:
            return True  # the lease is lost; that has its own way
        if await self._leases.rank(held, lease.tenant) < most:
            return True
        await held.write(before)
        return False

    async def _call(self, work: Work, held: Held, attempt: Prepared) -> None:
        adapter = work.instance.adapter
        if adapter is None:
            raise AssertionError("what is called has an adapter")
        task_id = work.task.task_id
        job = replace(attempt.job, may_go_on=held.assured)
        attending = Attending(adapter.call(job), attached=job.remote_id is not None)
        self.running[task_id] = attending
        try:
            await self._attend(work, held, attempt, attending)
        except Exception:
            # A fault of ours stops no GPU: the call is lost, as one whose dispatcher has died.
            await attending.abandon()
            if work.seat.kept:
                await drain_lost(work.instance, work.slot.key, held.lease, self._settings)
            raise
        finally:
            if self.running.get(task_id) is attending:
                del self.running[task_id]

    async def _prepared(self, work: Work, submission: AnySubmission, number: int) -> Prepared:
        gpu = work.instance.gpu()
        model = runs_as(gpu, work.ticket.address.lane.model, gpu.learned.warm) or ANY_MODEL
        cold = is_cold(gpu, model, gpu.learned.warm)
        amount = units(submission)
        job = Job(
            task_id=work.task.task_id,
            attempt=number,
            request=submission.request,
            model=None if model == ANY_MODEL else model,
            expected_s=self._registry.expected_s(gpu, model, amount),
        )
        job = await persistently(lambda: results.with_audio(self._artifacts, job, submission.request))
        return Prepared(job=job, model=model, units=amount, cold=cold, canary=work.instance.on_trial)

    def _lease(self, slot: Slot, held: Held, submission: AnySubmission, job: Job) -> Lease:
        now = clock.now()
        expected_s = job.expected_s or self._settings.unknown_run_s
        return Lease(
            holder=held.lease.holder,
            task_id=job.task_id,
            attempt=job.attempt,
            tenant=submission.tenant,
            since=now,
            expected_end_at=now + timedelta(seconds=expected_s),
            recording=slot.recording,
        )

    async def _attend(self, work: Work, held: Held, attempt: Prepared, attending: Attending) -> None:
        job = attempt.job
        reporter = Reporter(self._bus, job.task_id, job.attempt, job.expected_s)
        loop = asyncio.get_running_loop()
        begun_at = loop.time() - _age_s(work.task) if job.remote_id else loop.time()

        async def on_report(report: Attached | Progressed | Previewed) -> None:
            match report:
                case Attached(remote_id=remote_id):
                    await held.write(replace(held.lease, remote_id=remote_id))
                    attached = TaskAttached(
                        attempt=job.attempt, dispatcher=self._dispatcher, remote_id=remote_id
                    )
                    if not await work.append(attached):
                        attending.interrupt(self._gone(work.task, job.attempt) or Reason.OVER)
                case Progressed():
                    await reporter.measured(report)
                case Previewed(image=image):
                    await reporter.previewed(image)

        async with background(self._watch_over(work, attending, reporter, begun_at)):
            outcome = await attending.outcome(on_report)
            run_s = loop.time() - begun_at
            async with self._vacated(work) if isinstance(outcome, Finished) else contextlib.nullcontext():
                await self._recorder.record(work, held, attempt, outcome, run_s)
        if isinstance(outcome, Interrupted):
            await self._let_go(work, attending, outcome.reason)
        elif isinstance(outcome, Failed) and outcome.error.code == CONNECTION_LOST:
            await drain_lost(work.instance, work.slot.key, held.lease, self._settings)

    @contextlib.asynccontextmanager
    async def _vacated(self, work: Work) -> AsyncIterator[None]:
        """Let the next task have the slot, and a head start, while the result of this one is recorded.

        Until then the lease has to say that this task is in good hands, for whoever is given its ticket.
        """
        async with work.slot.records:
            work.slot.recording = work.task.task_id
            work.seat.vacate()
            self._leases.changed.set()
            try:
                await asyncio.sleep(0)  # the loop, which was woken before, matches meanwhile
                if work.slot.occupied:
                    await asyncio.sleep(HEAD_START_S)
                yield
            finally:
                work.slot.recording = None

    async def _let_go(self, work: Work, attending: Attending, reason: Reason) -> None:
        """Wait until a stopped call has ended, unless there is no time for that: then the lease stays."""
        if reason in _AT_ONCE:
            await attending.abandon()
            return
        log.info("slot.draining", slot=work.slot.key, reason=str(reason))
        async with minded(work.instance, work.slot.key, self._settings.stuck_after_s):
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
                if reason := await self._over(work):
                    attending.interrupt(reason)

    async def _over(self, work: Work) -> Reason | None:
        """Look whether the task has gone on without our having heard of it."""
        try:
            task = await work.peek()
        except UnavailableError:
            return None
        return self._gone(task, work.task.attempt)

    def _gone(self, task: Task, attempt: int) -> Reason | None:
        """Say how an attempt of ours is over, None while it is ours."""
        if task.status is not Status.RUNNING or task.attempt > attempt:
            return Reason.OVER
        return Reason.TAKEN if task.dispatcher != self._dispatcher else None


def _age_s(task: Task) -> float:
    """Give how long the attempt that runs has been under way."""
    return max(0.0, (clock.now() - task.attempts[-1].started_at).total_seconds())
