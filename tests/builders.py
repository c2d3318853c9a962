"""Short names for test data; what a test does not care about has a default."""

from datetime import UTC, datetime, timedelta
from typing import Any

from schemas import events
from schemas.events import (
    Artifact,
    Attempt,
    AttemptFailed,
    Deadline,
    ErrorClass,
    Recorded,
    TaskAttached,
    TaskCancelled,
    TaskDone,
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
from schemas.ids import ArtifactId, BackendId, EventId, TaskId
from schemas.intake import Limits
from schemas.requests import ImageRequest, ImageSubmission, SpeechRequest, SpeechSubmission
from schemas.subjects import Address, Lane
from schemas.task import Task, fold
from services.bus.connection import Bus
from services.bus.stored import Stored
from services.bus.tickets import Ticket

T0 = datetime(2026, 11, 24, 9, tzinfo=UTC)
ENDLESS: dict[str, Any] = {"start_deadline": None, "deadline": None}
"""Of a task that a process sees: its clock goes on, and by that all else here is long over time."""
TASK = TaskId("0199d4e8-7c1a-7000-8000-0123456789ab")
OTHER = TaskId("0199d4e8-7c1a-7000-8000-ba9876543210")
GPU = BackendId("image-1")
LANE = Lane("image", "any", "normal", 3)
ADDRESS = Address(LANE, TASK)
NOWHERE = Bus("nats://127.0.0.1:9", "test")
LIMITS = Limits(
    start_deadline_s=86_400, deadline_s=172_800, run_timeout_s=600, max_attempts=3, horizon_s=13 * 86_400
)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def picture(**members: Any) -> ImageRequest:  # Any: whatever a request may have
    return ImageRequest(**{"prompt": "a red fox", "seed": 7, **members})


def image(**members: Any) -> ImageSubmission:  # Any: as above
    fixed = {"request": picture(), "start_deadline": at(86_400), "deadline": at(172_800)}
    return ImageSubmission(**{**fixed, **members})


def speech(**members: Any) -> SpeechSubmission:  # Any: as above
    request = SpeechRequest(artifact="recording")
    fixed = {"request": request, "start_deadline": at(86_400), "deadline": at(172_800)}
    return SpeechSubmission(**{**fixed, **members})


def error(error_class: ErrorClass = ErrorClass.TRANSIENT, code: str = "backend_error") -> TaskError:
    return TaskError(code=code, message=f"it was {error_class}", error_class=error_class)


def scheduled(**members: Any) -> TaskScheduled:  # Any: as above
    return TaskScheduled(submission=image(**{"not_before": at(60), **members}))


def submitted(**members: Any) -> TaskSubmitted:  # Any: as above
    return TaskSubmitted(submission=image(**members))


def ticket(number: int = 0, lane: Lane = LANE) -> Ticket:
    """Make the ticket of a task that was submitted at T0 as the log's message of that number."""
    subject = Address(lane, TaskId(f"0199d4e8-7c1a-7000-8000-{number:012}")).subject(TaskSubmitted)
    return Ticket(NOWHERE, Stored(subject, events.encode(submitted()), {}, number, T0))


def started(attempt: int = 1, backend: BackendId = GPU) -> TaskStarted:
    return TaskStarted(attempt=attempt, backend=backend, dispatcher="dispatcher-a")


def attached(attempt: int = 1, remote_id: str | None = None) -> TaskAttached:
    return TaskAttached(attempt=attempt, dispatcher="dispatcher-a", remote_id=remote_id or f"job-{attempt}")


def tried(attempt: int = 1, *, cause: TaskError | None = None, start: float = 2, end: float = 4) -> Attempt:
    return Attempt(
        attempt=attempt, backend=GPU, started_at=at(start), finished_at=at(end), error=cause or error()
    )


def attempt_failed(attempt: int = 1, *, counted: int = 1, retry_at: float = 10) -> AttemptFailed:
    return AttemptFailed(
        attempt=attempt,
        error=error(),
        retry_at=at(retry_at),
        counted=counted,
        attempts=tuple(tried(number) for number in range(1, attempt + 1)),
    )


def requeued(attempt: int = 1, *, handbacks: int = 1, counted: int = 0) -> TaskRequeued:
    return TaskRequeued(
        attempt=attempt,
        reason="backend_away",
        handbacks=handbacks,
        counted=counted,
        attempts=tuple(tried(number) for number in range(1, attempt + 1)),
    )


def artifact(number: int = 0, **members: Any) -> Artifact:  # Any: as above
    fixed = {
        "artifact_id": ArtifactId(f"{TASK}-1-{number}"),
        "media_type": "image/png",
        "bytes": 48_211,
        "sha256": "ab" * 32,
        "width": 1024,
        "height": 1024,
        "seed": 7 + number,
    }
    return Artifact(**{**fixed, **members})


def done(attempt: int = 1, **members: Any) -> TaskDone:  # Any: as above
    fixed = {"artifacts": (artifact(),), "usage": Usage(run_s=2.5)}
    return TaskDone(attempt=attempt, **{**fixed, **members})


def failed(attempts: tuple[Attempt, ...] = ()) -> TaskFailed:
    return TaskFailed(error=error(ErrorClass.PERMANENT), attempts=attempts)


def cancelled() -> TaskCancelled:
    return TaskCancelled(by="default")


def expired(deadline: Deadline = Deadline.TOTAL) -> TaskExpired:
    return TaskExpired(deadline=deadline, due_at=at(172_800))


def record(
    event: TaskEvent | Undecodable, sequence: int = 1, *, task_id: TaskId = TASK, after: float | None = None
) -> Recorded:
    """Place an event in the log; its time is its sequence in seconds, where ``after`` says nothing else."""
    moment = at(sequence if after is None else after)
    return Recorded(event, task_id, sequence, moment, EventId(f"e-{sequence}"))


def history(*happened: TaskEvent | Undecodable, task_id: TaskId = TASK) -> list[Recorded]:
    """Place events at sequences 1, 2, 3 …"""
    return [record(event, number, task_id=task_id) for number, event in enumerate(happened, 1)]


def task(*happened: TaskEvent | Undecodable) -> Task:
    """Fold what happened."""
    return fold(TASK, history(*happened))
