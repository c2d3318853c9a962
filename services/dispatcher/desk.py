"""What is done with a pulled ticket, step by step as the decider says; nothing is decided here."""

from enum import Enum

import structlog

from schemas.errors import TaskfoldError
from schemas.ids import ANY_MODEL
from schemas.task import Status
from services import clock
from services.bus.tasklog import TaskLog
from services.bus.tickets import Ticket
from services.dispatcher.decider import Ack, End, Presume, Start, Wait, prefers_elsewhere, with_ticket
from services.dispatcher.execution import Execution
from services.dispatcher.instances import Instance, Registry, Slot
from services.dispatcher.work import Work
from services.leases import Leases

log = structlog.get_logger()


class Outcome(Enum):
    """ELSEWHERE: the ticket is still in hand, and another backend should run it."""

    SETTLED = "settled"
    ELSEWHERE = "elsewhere"


class Desk:
    def __init__(self, tasklog: TaskLog, leases: Leases, registry: Registry, execution: Execution) -> None:
        self._log = tasklog
        self._leases = leases
        self._registry = registry
        self._execution = execution

    async def run(self, ticket: Ticket, instance: Instance, slot: Slot) -> Outcome:
        """Do what there is to do; the slot is free again when this returns.

        A fault of ours in the middle of an attempt is a failed attempt, so that no task can bring every
        dispatcher down in turn; any other leaves the ticket alone, and it is delivered again.
        """
        work = Work(self._log, ticket, slot, instance)
        try:
            await work.look()
            return await self._step(work)
        except* TaskfoldError as errors:
            log.warning("ticket.left", task_id=work.task.task_id, error=str(errors.exceptions[0]))
        except* Exception:
            log.exception("ticket.fault", task_id=work.task.task_id)
            if work.task.status is Status.RUNNING:
                await work.settle(self._execution.failed_by_us(work.task))
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
                    await self._execution.run(work, number)
            return Outcome.SETTLED

    def _alive(self, work: Work) -> bool:
        task_id = work.task.task_id
        return task_id in self._execution.running or self._leases.working_on(task_id)

    def _prefers_elsewhere(self, work: Work) -> bool:
        lane = work.ticket.address.lane
        backend = work.instance.backend
        others = any(
            other.usable
            and other.backend.name != backend.name
            and other.backend.kind is backend.kind
            and (lane.model == ANY_MODEL or lane.model in other.backend.model_slugs)
            for other in self._registry.instances.values()
        )
        return prefers_elsewhere(work.task, backend.name, others=others, now=clock.now())
