"""The life of a task: which event is legal in which state, and what each one changes.

Everything that sets a status stands in this file. It reads no clock, draws no chance and touches no
network, so the same events always fold to the same task. ``evolve`` is total: an event that is not
legal changes nothing.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from functools import reduce
from types import MappingProxyType
from typing import Final

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from schemas.events import (
    Artifact,
    Attempt,
    AttemptFailed,
    Recorded,
    TaskAttached,
    TaskCancelled,
    TaskDone,
    TaskErased,
    TaskError,
    TaskEvent,
    TaskExpired,
    TaskFailed,
    TaskRequeued,
    TaskScheduled,
    TaskStarted,
    TaskSubmitted,
    Undecodable,
    Usage,
)
from schemas.ids import TaskId
from schemas.requests import AnySubmission, Instant


class Status(StrEnum):
    """Upper case on the wire, as users see it. ABSENT is never shown."""

    __hash__ = str.__hash__  # that of an Enum is written in Python, and a fold asks for millions

    ABSENT = "ABSENT"
    SCHEDULED = "SCHEDULED"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


WAITING: Final = frozenset({Status.SCHEDULED, Status.QUEUED, Status.RETRYING})
FINAL: Final = frozenset({Status.DONE, Status.FAILED, Status.CANCELLED, Status.EXPIRED})


def _table() -> Mapping[tuple[Status, type[TaskEvent]], Status]:
    table: dict[tuple[Status, type[TaskEvent]], Status] = {
        (Status.ABSENT, TaskScheduled): Status.SCHEDULED,
        (Status.ABSENT, TaskSubmitted): Status.QUEUED,
        # A ticket that nobody can read is failed by whoever pulls it, and nothing came before that.
        (Status.ABSENT, TaskFailed): Status.FAILED,
        (Status.SCHEDULED, TaskSubmitted): Status.QUEUED,
        (Status.RUNNING, TaskDone): Status.DONE,
    }
    # A lookup sees the last event of each kind and not all of them, so that what one attempt added
    # may follow what a later one has replaced: here the events of attempts are legal in any order.
    for status in (Status.QUEUED, Status.RUNNING, Status.RETRYING):
        table[status, TaskStarted] = Status.RUNNING
        table[status, TaskAttached] = Status.RUNNING
        table[status, AttemptFailed] = Status.RETRYING
        table[status, TaskRequeued] = Status.QUEUED
        table[status, TaskFailed] = Status.FAILED
    for status in (*WAITING, Status.RUNNING):
        table[status, TaskCancelled] = Status.CANCELLED
        table[status, TaskExpired] = Status.EXPIRED
    for status in FINAL:
        table[status, TaskErased] = status
    return MappingProxyType(table)


TRANSITIONS: Final = _table()


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task as its events left it. ``sequence`` is that of the last event that changed it."""

    task_id: TaskId
    status: Status = Status.ABSENT
    sequence: int = 0
    submission: AnySubmission | None = None
    submitted_at: Instant | None = None
    finished_at: Instant | None = None
    attempts: tuple[Attempt, ...] = ()
    counted: int = 0
    handbacks: int = 0
    retry_at: Instant | None = None
    dispatcher: str | None = None
    remote_id: str | None = None
    artifacts: tuple[Artifact, ...] = ()
    text: str | None = None
    usage: Usage | None = None
    error: TaskError | None = None
    erased_at: Instant | None = None

    @property
    def attempt(self) -> int:
        """The number of the latest attempt, 0 before the first."""
        return self.attempts[-1].attempt if self.attempts else 0

    @property
    def final(self) -> bool:
        return self.status in FINAL


def legal(task: Task, recorded: Recorded) -> bool:
    """Say whether the event may follow; what may not is counted and not shown."""
    return _after(task, recorded.event) is not None


def _after(task: Task, event: TaskEvent | Undecodable) -> Status | None:
    """Give the status after an event, None for one that is not legal."""
    status = TRANSITIONS.get((task.status, type(event)))  # type: ignore[arg-type]  # Undecodable is in no row
    if status is None and isinstance(event, TaskErased) and event.facts:
        return Status(event.facts.status)  # some or all that came before it is gone from the log
    return status


def evolve(task: Task, recorded: Recorded) -> Task:
    """Apply one recorded event; one that is not legal here changes nothing."""
    status = _after(task, recorded.event)
    if status is None:
        return task
    changed = _apply(task, recorded.event, recorded.at)  # type: ignore[arg-type]  # as above
    # A copy that nobody else has seen yet; another one would cost as much as all the rest.
    force_setattr(changed, "status", status)
    force_setattr(changed, "sequence", recorded.sequence)
    if status in FINAL and changed.finished_at is None:
        force_setattr(changed, "finished_at", recorded.at)
    return changed


def _apply(task: Task, event: TaskEvent, at: datetime) -> Task:
    match event:  # the commonest first, since each question costs a tenth of a microsecond
        case TaskStarted():
            return _started(task, event, at)
        case TaskAttached():
            return replace(task, dispatcher=event.dispatcher, remote_id=event.remote_id)
        case TaskSubmitted() | TaskScheduled():
            submitted_at = task.submitted_at or at
            return replace(task, submission=event.submission, submitted_at=submitted_at)
        case TaskDone() | TaskFailed() | TaskCancelled() | TaskExpired():
            return _finished(task, event, at)
        case AttemptFailed():
            return replace(
                task,
                attempts=event.attempts,
                counted=event.counted,
                handbacks=0,
                retry_at=event.retry_at,
                dispatcher=None,
                remote_id=None,
            )
        case TaskRequeued():
            return replace(
                task,
                attempts=event.attempts,
                counted=event.counted,
                handbacks=event.handbacks,
                retry_at=None,
                dispatcher=None,
                remote_id=None,
            )
        case TaskErased():
            return _erased(task, event, at)


def _erased(task: Task, event: TaskErased, at: datetime) -> Task:
    facts = event.facts
    if facts is None:  # from before there were any: what else there is of the task stays
        return replace(task, text=None, artifacts=())
    return Task(
        task_id=task.task_id,
        submission=facts.submission,
        submitted_at=facts.submitted_at,
        finished_at=facts.finished_at,
        attempts=facts.attempts,
        counted=facts.counted,
        artifacts=facts.artifacts,
        usage=facts.usage,
        error=facts.error,
        erased_at=at,
    )


def _started(task: Task, event: TaskStarted, at: datetime) -> Task:
    attempt = Attempt(attempt=event.attempt, backend=event.backend, started_at=at)
    earlier = [a for a in task.attempts if a.attempt < event.attempt]
    return replace(
        task,
        attempts=(*earlier, attempt),
        retry_at=None,
        dispatcher=event.dispatcher,
        remote_id=None,
    )


def _finished(task: Task, event: TaskDone | TaskFailed | TaskCancelled | TaskExpired, at: datetime) -> Task:
    task = replace(task, attempts=closed(task.attempts, at), retry_at=None, dispatcher=None, remote_id=None)
    match event:
        case TaskDone():
            return replace(task, artifacts=event.artifacts, text=event.text, usage=event.usage)
        case TaskFailed():
            return replace(task, error=event.error, attempts=event.attempts or task.attempts)
        case TaskCancelled():
            return task
        case TaskExpired():
            return replace(
                task,
                error=TaskError(
                    code=f"{event.deadline}_deadline_passed",
                    message=f"the {event.deadline} deadline passed at {event.due_at.isoformat()}",
                ),
            )


def closed(
    attempts: tuple[Attempt, ...], at: datetime, error: TaskError | None = None
) -> tuple[Attempt, ...]:
    """End the last attempt, if it has not ended."""
    if not attempts or attempts[-1].finished_at is not None:
        return attempts
    return (*attempts[:-1], replace(attempts[-1], finished_at=at, error=error))


def fold(task_id: TaskId, history: Iterable[Recorded]) -> Task:
    """Replay what is known of a task, in the order of the sequences."""
    return reduce(evolve, sorted(history, key=lambda r: r.sequence), Task(task_id=task_id))
