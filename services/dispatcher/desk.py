"""What is done with a pulled ticket, step by step as the decider says; nothing is decided here."""

from collections.abc import Coroutine
from enum import Enum

import structlog

from schemas.errors import TaskfoldError
from schemas.ids import ANY_MODEL
from schemas.lease import Lease
from schemas.task import Status
from services import clock
from services.bus.tasklog import TaskLog
from services.bus.tickets import Away, Ticket
from services.dispatcher.decider import (
    Ack,
    End,
    Presume,
    Start,
    Wait,
    can_go_on,
    prefers_elsewhere,
    with_ticket,
)
from services.dispatcher.execution import Execution
from services.dispatcher.instances import Seat
from services.dispatcher.recording import Recorder
from services.dispatcher.registry import Registry
from services.dispatcher.work import Work, persistently
from services.leases import Leases

log = structlog.get_logger()


class Outcome(Enum):
    """ELSEWHERE: the ticket is still in hand, and another backend should run it.

    CAPPED: it is still in hand, and its tenant has as many tasks running as it may.
    """

    SETTLED = "settled"
    ELSEWHERE = "elsewhere"
    CAPPED = "capped"


class Desk:
    def __init__(
        self,
        tasklog: TaskLog,
        leases: Leases,
        registry: Registry,
        execution: Execution,
        recorder: Recorder,
    ) -> None:
        self._log = tasklog
        self._leases = leases
        self._registry = registry
        self._execution = execution
        self._recorder = recorder

    async def run(self, ticket: Ticket, seat: Seat) -> Outcome:
        """Do what there is to do; the GPU is free again when this returns, or earlier, as the seat says."""
        work = Work(self._log, ticket, seat)

        async def act() -> Outcome:
            await work.look()
            return await self._step(work)

        return await self._guarded(work, act())

    async def go_on(self, lease: Lease, seat: Seat) -> bool:
        """Go on with the attempt that a stale lease is for, to its end; False where that cannot be done."""
        if lease.task_id is None or lease.remote_id is None:
            return False
        task_id, remote_id = lease.task_id, lease.remote_id
        found = await persistently(lambda: self._log.lookup(task_id))
        if found.address is None or not can_go_on(found.task, lease, seat.instance.backend.name):
            return False
        work = Work(self._log, Away(found.address), seat)
        work.task, work.last = found.task, found.last
        gone_on = False

        async def act() -> Outcome:
            nonlocal gone_on
            gone_on = await self._execution.go_on(work, remote_id)
            return Outcome.SETTLED

        await self._guarded(work, act())
        return gone_on

    async def _guarded(self, work: Work, act: Coroutine[None, None, Outcome]) -> Outcome:
        """Bear what goes wrong.

        A fault of ours in the middle of an attempt is a failed attempt, so that no task can bring every
        dispatcher down in turn; any other leaves the ticket alone, and it is delivered again.
        """
        try:
            return await act
        except* TaskfoldError as errors:
            log.warning("ticket.left", task_id=work.task.task_id, error=str(errors.exceptions[0]))
        except* Exception:
            log.exception("ticket.fault", task_id=work.task.task_id)
            if work.task.status is Status.RUNNING:
                await work.settle(self._recorder.failed_by_us(work.task))
        return Outcome.SETTLED

    async def _step(self, work: Work) -> Outcome:
        while True:
            step = with_ticket(work.task, now=clock.now(), alive=self._alive(work))
            match step:
                case Ack():
                    await work.ticket.ack()
                case Wait(delay=delay):
                    await work.ticket.give_back(delay)
                case End():
                    await work.settle(step)
                case Presume(event=event):
                    await work.append(event)
                    continue
                case Start(attempt=number):
                    if self._prefers_elsewhere(work):
                        return Outcome.ELSEWHERE
                    if not await self._execution.run(work, number):
                        return Outcome.CAPPED
            return Outcome.SETTLED

    def _alive(self, work: Work) -> bool:
        task_id = work.task.task_id
        if task_id in self._execution.running or self._leases.working_on(task_id):
            return True
        left = self._leases.left(task_id)
        return left is not None and self._registry.resumes(left)

    def _prefers_elsewhere(self, work: Work) -> bool:
        lane = work.ticket.address.lane
        backend = work.instance.backend
        now = clock.now()

        def others() -> bool:
            return any(
                other.width(now, last=False) > 0
                and other.backend.name != backend.name
                and other.backend.kind is backend.kind
                and (lane.model == ANY_MODEL or lane.model in other.models)
                for other in self._registry.instances.values()
            )

        return prefers_elsewhere(work.task, backend.name, others=others, now=now)
