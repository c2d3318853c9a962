"""What goes out over HTTP: the task document, events, problems.

The one rule: these shapes are the API's promise. The document is stored without ``progress`` and ``queue``,
which change without an event of the task; they are put in front of the rest as it is read.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from schemas import envelope, events
from schemas.errors import Code, RejectedError
from schemas.events import TOKENS, Artifact, Attempt, Progress, Recorded, TaskError, Undecodable
from schemas.ids import ArtifactId, TaskId
from schemas.requests import Instant
from schemas.standing import Standing
from schemas.subjects import Address
from schemas.task import Status, Task

API: Final = "/api/v1"
_encode: Final = msgspec.json.Encoder().encode


class Links(Struct, frozen=True, rename={"own": "self"}):
    own: str
    events: str
    cancel: str


class AttemptView(Struct, frozen=True):
    attempt: int
    backend: str
    started_at: str
    finished_at: str | None
    error: TaskError | None


class ArtifactView(Struct, frozen=True):
    artifact_id: ArtifactId
    url: str
    media_type: str
    bytes: int
    sha256: str
    width: int | None
    height: int | None
    seed: int | None


class ErrorView(Struct, frozen=True):
    code: str
    message: str
    attempts: int


class Document(Struct, frozen=True, kw_only=True):
    """A task as users see it, less ``progress`` and ``queue``. Times are RFC 3339 in UTC."""

    task_id: TaskId
    kind: str
    status: Status
    priority: str
    tenant: str
    user: str | None
    tags: tuple[str, ...]
    metadata: dict[str, Any]  # Any: the user's own JSON
    submitted_at: str | None
    not_before: str | None
    started_at: str | None
    finished_at: str | None
    request: dict[str, Any] | None  # Any: by kind, see schemas.requests
    attempts: tuple[AttemptView, ...]
    result_url: str | None
    artifacts: tuple[ArtifactView, ...]
    text: str | None
    error: ErrorView | None
    origin: TaskId | None
    links: Links
    sequence: int


class Accepted(Struct, frozen=True):
    task_id: TaskId
    status: Status
    status_url: str
    events_url: str
    result_url: str
    cancel_url: str


class Cancelled(Struct, frozen=True):
    """``outcome``: CANCELLED, ALREADY_CANCELLED or ALREADY_FINISHED."""

    task_id: TaskId
    outcome: str


class WireEvent(Struct, frozen=True):
    """An event in a JSON history and in an SSE frame's data."""

    sequence: int
    type: str
    time: str
    task_id: TaskId
    data: Raw


class ProgressView(Struct, frozen=True):
    """How far the running attempt is; ``estimated`` where the backend does not say."""

    attempt: int
    fraction: float
    step: int | None
    steps: int | None
    estimated: bool
    preview_url: str | None = None


class WireProgress(Struct, frozen=True):
    """The data of an SSE frame ``task.progress``, which has no sequence."""

    type: str
    task_id: TaskId
    data: Raw


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457. ``code`` is stable; ``member`` names what is wrong in the request.

    ``done``: of an action on many tasks that broke off, how many it meant and how many it reached.
    """

    type: str
    title: str
    status: int
    code: Code
    detail: str
    member: str | None = None
    task_id: TaskId | None = None
    allowed: Sequence[str] | None = None
    done: Mapping[str, int] | None = None


HTTP_STATUS: Final[dict[Code, int]] = {
    Code.MALFORMED: 400,
    Code.UNKNOWN_MEMBER: 422,
    Code.MISSING_MEMBER: 422,
    Code.WRONG_TYPE: 422,
    Code.OUT_OF_RANGE: 422,
    Code.CONFLICTING_MEMBERS: 422,
    Code.UNKNOWN_KIND: 422,
    Code.UNKNOWN_MODEL: 422,
    Code.UNKNOWN_ARTIFACT: 422,
    Code.INVALID_ID: 422,
    Code.UNSUPPORTED_AUDIO: 415,
    Code.BROKEN_AUDIO: 422,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.BODY_TOO_LARGE: 413,
    Code.IDEMPOTENCY_KEY_REUSED: 422,
    Code.TASK_EXISTS: 409,
    Code.QUEUE_FULL: 503,
    Code.TENANT_QUEUE_FULL: 429,
    Code.STORAGE_FULL: 503,
    Code.UNKNOWN_TASK: 404,
    Code.UNKNOWN_BACKEND: 404,
    Code.BACKEND_EXISTS: 409,
    Code.BACKEND_IN_USE: 409,
    Code.UNKNOWN_ROUTE: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.NOT_FINISHED: 409,
    Code.NO_RESULT: 409,
    Code.NO_SUCH_ARTIFACT: 404,
    Code.EXPIRED_ARTIFACT: 410,
    Code.RANGE_NOT_SATISFIABLE: 416,
    Code.NATS_AWAY: 503,
    Code.OUTCOME_UNKNOWN: 503,
    Code.READ_MODEL_AWAY: 503,
    Code.SHUTTING_DOWN: 503,
    Code.INTERNAL: 500,
}
assert set(HTTP_STATUS) == set(Code), "every code has its status"  # noqa: S101 - a gap must not import


def problem(error: RejectedError, task_id: TaskId | None = None) -> Problem:
    return Problem(
        type=f"urn:taskfold:problem:{error.code}",
        title=error.code.replace("_", " ").capitalize(),
        status=HTTP_STATUS[error.code],
        code=error.code,
        detail=error.detail,
        member=error.member,
        task_id=error.extra.get("task_id", task_id),
        allowed=error.extra.get("allowed"),
        done=error.extra.get("done"),
    )


def task_url(task_id: TaskId) -> str:
    return f"{API}/tasks/{task_id}"


def artifact_url(artifact: Artifact) -> str:
    folder = "images" if artifact.media_type.startswith("image/") else "artifacts"
    return f"/api/{folder}/{artifact.artifact_id}"


def accepted(task_id: TaskId, status: Status) -> Accepted:
    url = task_url(task_id)
    return Accepted(task_id, status, url, f"{url}/events", f"{url}/result", f"{url}/cancel")


def document(task: Task, address: Address) -> Document:
    """Render a task; the same from the projector's fold and from a lookup."""
    made = task.submission
    url = task_url(task.task_id)
    error = task.error
    return Document(
        task_id=task.task_id,
        kind=address.lane.kind,
        status=task.status,
        priority=address.lane.priority,
        tenant=made.tenant if made else "default",
        user=made.user if made else None,
        tags=made.tags if made else (),
        metadata=made.metadata if made else {},
        submitted_at=_time(task.submitted_at),
        not_before=_time(made.not_before) if made else None,
        started_at=_time(task.attempts[0].started_at) if task.attempts else None,
        finished_at=_time(task.finished_at),
        request=msgspec.to_builtins(made.request) if made else None,
        attempts=tuple(_attempt(attempt) for attempt in task.attempts),
        result_url=artifact_url(task.artifacts[0]) if task.artifacts else None,
        artifacts=tuple(_artifact(artifact) for artifact in task.artifacts),
        text=task.text,
        error=ErrorView(error.code, error.message, len(task.attempts)) if error else None,
        origin=made.origin if made else None,
        links=Links(url, f"{url}/events", f"{url}/cancel"),
        sequence=task.sequence,
    )


def encoded(task: Task, address: Address) -> bytes:
    """Render and encode the stored form, to be completed by ``spliced``."""
    return _encode(document(task, address))


def spliced(stored: bytes, shown: bytes | None, queue: Standing | None = None) -> bytes:
    """Complete a stored document with what changes without an event of its task."""
    return b'{"progress":%b,"queue":%b,%b' % (shown or b"null", _encode(queue), stored[1:])


def wire_event(recorded: Recorded) -> bytes:
    """Encode a legal event as the API shows it."""
    event = recorded.event
    if isinstance(event, Undecodable):
        raise TypeError("an event that could not be read is not shown")
    return _encode(
        WireEvent(
            recorded.sequence,
            f"task.{TOKENS[type(event)]}",
            envelope.timestamp(recorded.at),
            recorded.task_id,
            Raw(events.encode(event)),
        )
    )


def progress(seen: Progress) -> bytes:
    """Encode progress as the document shows it."""
    return _encode(ProgressView(seen.attempt, seen.fraction, seen.step, seen.steps, seen.estimated))


def wire_progress(task_id: TaskId, shown: bytes) -> bytes:
    return _encode(WireProgress("task.progress", task_id, Raw(shown)))


def _time(at: Instant | None) -> str | None:
    return envelope.timestamp(at) if at else None


def _attempt(attempt: Attempt) -> AttemptView:
    return AttemptView(
        attempt.attempt,
        attempt.backend,
        envelope.timestamp(attempt.started_at),
        _time(attempt.finished_at),
        attempt.error,
    )


def _artifact(artifact: Artifact) -> ArtifactView:
    return ArtifactView(
        artifact.artifact_id,
        artifact_url(artifact),
        artifact.media_type,
        artifact.bytes,
        artifact.sha256,
        artifact.width,
        artifact.height,
        artifact.seed,
    )
