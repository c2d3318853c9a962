"""What a dispatcher does with a ticket, and with an attempt that has ended: state and time in, a step out.

The one rule: what a ticket leads to is decided here and nowhere else; docs/lifecycle.md shows it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from schemas.commands import expired
from schemas.events import (
    Attempt,
    AttemptFailed,
    ErrorClass,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskRequeued,
)
from schemas.lease import Lease
from schemas.task import Status, Task, closed
from services.dispatcher.policies.retry import RetryPolicy, handback_delay, retry_delay

LOOK_AGAIN: Final = timedelta(seconds=10)
ELSEWHERE_PATIENCE: Final = timedelta(seconds=10)
_COUNTED: Final = frozenset({ErrorClass.TRANSIENT, ErrorClass.LOST})
LOST: Final = TaskError(
    code="lost", message="its dispatcher stopped or was cut off", error_class=ErrorClass.LOST
)
UNDECODABLE: Final = TaskError(code="undecodable", message="the ticket cannot be read")


class Ack(Struct, frozen=True):
    """The task is over; so is its ticket."""


class Wait(Struct, frozen=True):
    """Give the ticket back and look again after the delay."""

    delay: timedelta


class Start(Struct, frozen=True):
    attempt: int


class End(Struct, frozen=True):
    """Append a final event, then ack."""

    event: TaskFailed | TaskExpired


class Again(Struct, frozen=True):
    """Append, then give the ticket back with the delay."""

    event: AttemptFailed | TaskRequeued
    delay: timedelta


class Presume(Struct, frozen=True):
    """Append that the attempt is lost, then look at the ticket as it is after that."""

    event: AttemptFailed


TicketStep = Ack | Wait | Start | End | Presume
FailureStep = End | Again


def with_ticket(task: Task, *, now: datetime, alive: bool) -> TicketStep:
    """Decide on a pulled ticket.

    ``alive``: the attempt that runs is in the hands of one that lives, or about to be gone on with.
    """
    if task.final:
        return Ack()
    if task.status is Status.ABSENT or task.submission is None:
        return End(TaskFailed(error=UNDECODABLE))
    if event := expired(task, now):
        return End(event)
    if task.status is Status.RUNNING:
        return Wait(LOOK_AGAIN) if alive else _presume_lost(task, now)
    if task.retry_at and task.retry_at > now:
        return Wait(task.retry_at - now)
    return Start(task.attempt + 1)


def _presume_lost(task: Task, now: datetime) -> End | Presume:
    attempts = closed(task.attempts, now, LOST)
    counted = task.counted + 1
    if counted >= _max_attempts(task):
        return End(TaskFailed(error=LOST, attempts=attempts))
    return Presume(
        AttemptFailed(attempt=task.attempt, error=LOST, retry_at=now, counted=counted, attempts=attempts)
    )


def after_failure(
    task: Task, error: TaskError, *, now: datetime, policy: RetryPolicy, retry_after_s: float | None = None
) -> FailureStep:
    """Decide on a running task whose attempt has failed."""
    attempts = closed(task.attempts, now, error)
    if event := expired(task, now):
        return End(event)
    if error.error_class is ErrorClass.PERMANENT:
        return End(TaskFailed(error=error, attempts=attempts))
    if error.error_class not in _COUNTED:
        return handed_back(task, error.code, now=now, error=error, retry_after_s=retry_after_s)
    counted = task.counted + 1
    if counted >= _max_attempts(task):
        return End(TaskFailed(error=error, attempts=attempts))
    delay = retry_delay(policy, task.task_id, counted)
    return Again(
        AttemptFailed(
            attempt=task.attempt, error=error, retry_at=now + delay, counted=counted, attempts=attempts
        ),
        delay,
    )


def handed_back(
    task: Task,
    reason: str,
    *,
    now: datetime,
    error: TaskError | None = None,
    retry_after_s: float | None = None,
) -> Again:
    """Give a running task back without blame: its backend is away, or this dispatcher stops."""
    handbacks = task.handbacks + 1
    delay = handback_delay(handbacks) if error else timedelta(0)
    if retry_after_s:
        delay = max(delay, min(timedelta(seconds=retry_after_s), handback_delay(handbacks + 2)))
    return Again(
        TaskRequeued(
            attempt=task.attempt,
            reason=reason,
            handbacks=handbacks,
            counted=task.counted,
            attempts=closed(task.attempts, now, error),
        ),
        delay,
    )


def prefers_elsewhere(task: Task, backend: str, *, others: Callable[[], bool], now: datetime) -> bool:
    """Say whether this attempt should go to another backend: this one failed it last, and there are others.

    It does not wait for another for ever.
    """
    last: Attempt | None = task.attempts[-1] if task.attempts else None
    if last is None or last.error is None or last.backend != backend:
        return False
    due_at = task.retry_at or last.finished_at or now
    return now < due_at + ELSEWHERE_PATIENCE and others()


def can_go_on(task: Task, lease: Lease, backend: str) -> bool:
    """Say whether the attempt that a stale lease is for still runs, as far as its task knows."""
    if task.status is not Status.RUNNING or lease.remote_id is None or not task.attempts:
        return False
    last = task.attempts[-1]
    # Between the lease and the log a dispatcher may have died, so that only the lease knows the id.
    same_id = task.remote_id is None or task.remote_id == lease.remote_id
    return (last.attempt, last.backend) == (lease.attempt, backend) and same_id


def _max_attempts(task: Task) -> int:
    return task.submission.max_attempts if task.submission else 1
