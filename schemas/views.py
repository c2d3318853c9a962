"""What goes out over HTTP: the task document and its events.

The one rule: these shapes are the API's promise. The document is stored without ``progress`` and ``queue``,
which change without an event of the task; they are put in front of the rest as it is read.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from schemas import envelope, events
from schemas.erasure import CONTENT
from schemas.events import TOKENS, Artifact, Attempt, Progress, Recorded, TaskError
from schemas.ids import ArtifactId, BatchId, TaskId
from schemas.requests import Instant
from schemas.standing import Standing
from schemas.subjects import Address
from schemas.task import Status, Task

API: Final = "/api/v1"
_encode: Final = msgspec.json.Encoder().encode
_TYPES: Final = {kind: f"task.{token}" for kind, token in TOKENS.items()}
_LINE_FEED, _CARRIAGE_RETURN = b"\n\r"


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
    """A task as users see it, less ``progress`` and ``queue``. Times are RFC 3339 in UTC.

    ``backend``: where it was asked to run; where it did is said by its attempts.
    """

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
    attempts: Sequence[AttemptView]
    result_url: str | None
    artifacts: Sequence[ArtifactView]
    text: str | None
    error: ErrorView | None
    backend: str | None
    origin: TaskId | None
    batch: BatchId | None
    erased_at: str | None
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


class Erased(Struct, frozen=True):
    """``outcome``: ERASED or ALREADY_ERASED. ``kept``: the recording, where another task still needs it."""

    task_id: TaskId
    outcome: str
    kept: ArtifactId | None
    sequence: int


class WireEvent(Struct, frozen=True):
    """An event in a JSON history and in an SSE frame's data."""

    sequence: int
    type: str
    time: str
    task_id: TaskId
    data: Raw


class ProgressView(Struct, frozen=True):
    """How far the running attempt is; ``estimated`` where the backend does not say.

    ``preview_url``: how its picture looks so far, where the backend shows that.
    """

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
    attempts = [_attempt(attempt) for attempt in task.attempts]
    artifacts = [_artifact(artifact) for artifact in task.artifacts]
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
        started_at=attempts[0].started_at if attempts else None,
        finished_at=_time(task.finished_at),
        request=_request(task),
        attempts=attempts,
        result_url=artifacts[0].url if artifacts and not task.erased_at else None,
        artifacts=artifacts,
        text=task.text,
        error=ErrorView(error.code, error.message, len(attempts)) if error else None,
        backend=made.backend if made else None,
        origin=made.origin if made else None,
        batch=made.batch.batch_id if made and made.batch else None,
        erased_at=_time(task.erased_at),
        links=Links(url, f"{url}/events", f"{url}/cancel"),
        sequence=task.sequence,
    )


def _request(task: Task) -> dict[str, Any] | None:  # Any: by kind
    if task.submission is None:
        return None
    members: dict[str, Any] = msgspec.to_builtins(task.submission.request)
    if task.erased_at is not None:
        members.update(dict.fromkeys(CONTENT & members.keys()))
    return members


def encoded(task: Task, address: Address) -> bytes:
    """Render and encode the stored form, to be completed by ``spliced``."""
    return _encode(document(task, address))


def spliced(stored: bytes, shown: bytes | None, queue: Standing | None = None) -> bytes:
    """Complete a stored document with what changes without an event of its task."""
    return b'{"progress":%b,"queue":%b,%b' % (shown or b"null", _encode(queue), stored[1:])


def wire_event(recorded: Recorded) -> bytes:
    """Encode a legal event as the API shows it: with its body as it is, where that is one line of ASCII.

    So it costs a third, and what a later version added is shown too.
    """
    shown_type = _TYPES.get(type(recorded.event))  # type: ignore[arg-type]  # Undecodable is not there
    if shown_type is None:
        raise TypeError("an event that could not be read is not shown")
    at, task_id = envelope.timestamp(recorded.at), _encode(recorded.task_id).decode()
    data = recorded.body
    if not data or not data.isascii() or _LINE_FEED in data or _CARRIAGE_RETURN in data:
        data = _encode(recorded.event)
    head = f'"sequence":{recorded.sequence},"type":"{shown_type}","time":"{at}","task_id":{task_id}'
    return b'{%b,"data":%b}' % (head.encode(), data)


_decode_wire: Final = msgspec.json.Decoder(WireEvent).decode


def recorded(wire: bytes) -> Recorded:
    """Read back what ``wire_event`` wrote; times are of milliseconds, as all that is shown."""
    shown = _decode_wire(wire)
    body = bytes(shown.data)
    event = events.decode(shown.type.removeprefix("task."), body)
    at = datetime.fromisoformat(shown.time)
    return Recorded(event, shown.task_id, shown.sequence, at, body=body)


def progress(task_id: TaskId, seen: Progress) -> bytes:
    """Encode progress as the document shows it; another preview has another url."""
    preview_url = f"{task_url(task_id)}/preview?v={seen.preview}" if seen.preview else None
    return _encode(
        ProgressView(seen.attempt, seen.fraction, seen.step, seen.steps, seen.estimated, preview_url)
    )


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
