"""What someone may ask of a task that exists, and the decision. Imperative; may be refused.

The one rule: ``decide`` is pure. Submission is no command here: whether an id is new is decided by the
log itself, which refuses a second first event.
"""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from schemas.events import Deadline, TaskCancelled, TaskExpired
from schemas.task import Status, Task


class CancelTask(Struct, frozen=True):
    by: str
    reason: str | None = None


class ExpireTask(Struct, frozen=True):
    pass


Command = CancelTask | ExpireTask


class Refusal(StrEnum):
    """Why nothing happens; the value is what ``outcome`` says on the wire."""

    ALREADY_CANCELLED = "ALREADY_CANCELLED"
    ALREADY_FINISHED = "ALREADY_FINISHED"
    UNKNOWN = "UNKNOWN"
    NOT_DUE = "NOT_DUE"


def decide(task: Task, command: Command, now: datetime) -> TaskCancelled | TaskExpired | Refusal:
    """Say which event the command leads to, or why to none."""
    if task.status is Status.ABSENT:
        return Refusal.UNKNOWN
    if task.final:
        cancelled = task.status is Status.CANCELLED
        return Refusal.ALREADY_CANCELLED if cancelled else Refusal.ALREADY_FINISHED
    match command:
        case CancelTask():
            return TaskCancelled(by=command.by, reason=command.reason)
        case ExpireTask():
            return expired(task, now) or Refusal.NOT_DUE


def due(task: Task) -> tuple[Deadline, datetime] | None:
    """Give the deadline that ends the task next: to start while it has not, in total always."""
    if task.submission is None or task.final:
        return None
    deadlines = [(Deadline.TOTAL, task.submission.deadline)]
    if not task.attempts:
        deadlines.append((Deadline.START, task.submission.start_deadline))
    return min(((d, at) for d, at in deadlines if at), key=lambda pair: pair[1], default=None)


def expired(task: Task, now: datetime) -> TaskExpired | None:
    """Give the event that ends an overdue task, None while no deadline has passed."""
    found = due(task)
    return TaskExpired(deadline=found[0], due_at=found[1]) if found and found[1] <= now else None
