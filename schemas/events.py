"""What can happen to a task: past tense, immutable, kept for as long as the log.

The one rule: a token and the meaning of a member never change, and a new member has a default, so that
every event ever published still decodes. An event's body is its data alone; its type is the header
``ce-type``, its time the moment JetStream stored it, its place the sequence it was stored at.
"""

from enum import StrEnum
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from schemas.errors import UndecodableError
from schemas.ids import ArtifactId, BackendId, EventId, TaskId
from schemas.requests import AnySubmission, Instant

MAX_TEXT: Final = 64 * 1024

Text = Annotated[str, Meta(description="shown to people; branch on the code, not on this")]


class ErrorClass(StrEnum):
    """Who is to blame, which decides what happens next. Only TRANSIENT and LOST use up an attempt."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    OVERLOADED = "overloaded"
    LOST = "lost"
    BACKEND_DOWN = "backend_down"
    MISCONFIGURED = "misconfigured"


class TaskError(Struct, frozen=True, kw_only=True):
    code: str
    message: Text
    error_class: ErrorClass = msgspec.field(default=ErrorClass.PERMANENT, name="class")


class Attempt(Struct, frozen=True, kw_only=True):
    """One try on one backend, numbered from 1."""

    attempt: int
    backend: BackendId
    started_at: Instant
    finished_at: Instant | None = None
    error: TaskError | None = None


class Artifact(Struct, frozen=True, kw_only=True):
    """A reference to bytes in the artifact store; ``sha256`` in hex, sizes in bytes and pixels."""

    artifact_id: ArtifactId
    media_type: str
    bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    seed: int | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """What the attempt that succeeded took, in seconds on the backend and of audio."""

    run_s: float
    audio_s: float | None = None


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all events; carries nothing of its own."""


class TaskScheduled(Event, frozen=True, kw_only=True):
    submission: AnySubmission


class TaskSubmitted(Event, frozen=True, kw_only=True):
    submission: AnySubmission


class Candidate(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A backend that could have run the attempt. ``score``: the policy takes the least.

    ``free``: it could start at once; ``cold``: the model was not loaded there.
    """

    backend: BackendId
    score: float
    free: bool = True
    cold: bool = False


class Decision(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an attempt went where it did; ``candidates`` are the best ones, in order of their score."""

    policy: str
    reason: str
    candidates: tuple[Candidate, ...] = ()


class TaskStarted(Event, frozen=True, kw_only=True):
    """``model`` in the backend's own spelling; ``units`` of work as ``schemas.work`` measures them."""

    attempt: int
    backend: BackendId
    dispatcher: str
    model: str | None = None
    units: float | None = None
    decision: Decision | None = None


class TaskAttached(Event, frozen=True, kw_only=True):
    """The backend gave the attempt an id of its own, by which it can be found again."""

    attempt: int
    dispatcher: str
    remote_id: str


class AttemptFailed(Event, frozen=True, kw_only=True):
    """``attempts`` are all so far, this one included; ``counted`` how many of them used up a try."""

    attempt: int
    error: TaskError
    retry_at: Instant
    counted: int
    attempts: tuple[Attempt, ...]


class TaskRequeued(Event, frozen=True, kw_only=True):
    """Handed back without blame; ``handbacks`` counts those in a row, for the back-off."""

    attempt: int
    reason: str
    handbacks: int
    counted: int
    attempts: tuple[Attempt, ...]


class TaskDone(Event, frozen=True, kw_only=True):
    attempt: int
    artifacts: tuple[Artifact, ...]
    usage: Usage
    text: str | None = None


class TaskFailed(Event, frozen=True, kw_only=True):
    error: TaskError
    attempts: tuple[Attempt, ...] = ()


class TaskCancelled(Event, frozen=True, kw_only=True):
    by: str
    reason: str | None = None


class Deadline(StrEnum):
    START = "start"
    TOTAL = "total"


class TaskExpired(Event, frozen=True, kw_only=True):
    """``deadline`` says which one passed, at ``due_at``."""

    deadline: Deadline
    due_at: Instant


class Facts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What stays of an erased task: all but what the user put in and got out.

    ``number``: the sequence of its first event, which is no longer in the log. ``submission`` has neither
    prompt nor recording nor metadata, ``artifacts`` are names of what is gone.
    """

    number: int
    status: Literal["DONE", "FAILED", "CANCELLED", "EXPIRED"]
    submission: AnySubmission | None = None
    submitted_at: Instant | None = None
    finished_at: Instant | None = None
    attempts: tuple[Attempt, ...] = ()
    counted: int = 0
    artifacts: tuple[Artifact, ...] = ()
    usage: Usage | None = None
    error: TaskError | None = None


class TaskErased(Event, frozen=True, kw_only=True):
    """Alone it stands for the whole life: the events before it are gone from the log."""

    by: str
    facts: Facts | None = None


TaskEvent = (
    TaskScheduled
    | TaskSubmitted
    | TaskStarted
    | TaskAttached
    | AttemptFailed
    | TaskRequeued
    | TaskDone
    | TaskFailed
    | TaskCancelled
    | TaskExpired
    | TaskErased
)

TOKENS: Final[dict[type[TaskEvent], str]] = {
    TaskScheduled: "scheduled",
    TaskSubmitted: "submitted",
    TaskStarted: "started",
    TaskAttached: "attached",
    AttemptFailed: "attempt_failed",
    TaskRequeued: "requeued",
    TaskDone: "done",
    TaskFailed: "failed",
    TaskCancelled: "cancelled",
    TaskExpired: "expired",
    TaskErased: "erased",
}
"""The last token of the subject, and the middle of ``ce-type``: what each event is called on the wire."""

_DECODERS: Final = {token: msgspec.json.Decoder(event_type) for event_type, token in TOKENS.items()}
assert set(TOKENS) == set(get_args(TaskEvent)), "every event has its token"  # noqa: S101 - a typo here must not import

encode: Final = msgspec.json.Encoder().encode


def decode(token: str, body: bytes) -> TaskEvent:
    """Read an event's body by its token. Unknown members are skipped; UndecodableError otherwise."""
    decoder = _DECODERS.get(token)
    if decoder is None:
        raise UndecodableError(f"no event is called {token!r}")
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as error:  # also what is not UTF-8, or nested without end
        raise UndecodableError(f"{token}: {error}") from error


class Progress(Struct, frozen=True, kw_only=True):
    """How far a running attempt is, 0 to 1; ``estimated`` where the backend does not say. May be lost.

    ``preview`` names its latest preview, which is stored apart.
    """

    attempt: int
    fraction: float
    step: int | None = None
    steps: int | None = None
    estimated: bool = False
    preview: str | None = None


decode_progress: Final = msgspec.json.Decoder(Progress).decode


class Undecodable(Struct, frozen=True):
    """Stands where an event could not be read; evolve ignores it."""

    reason: str


class Recorded(Struct, frozen=True):
    """An event as the log holds it: what, where, when, and under which id it was appended.

    ``body`` is what was read of it, empty where it was not read.
    """

    event: TaskEvent | Undecodable
    task_id: TaskId
    sequence: int
    at: Instant
    event_id: EventId | None = None
    body: bytes = b""
