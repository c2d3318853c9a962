"""What a user asks for, as it is stored: requests by kind, and the submission around one.

One rule: members have defaults, so that what was recorded yesterday still decodes; the limits stand in
the annotations, where the check, the error text and OpenAPI all read them.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from schemas.ids import ANY_MODEL, BackendId, BatchId, TaskId, slug

Instant = Annotated[datetime, Meta(tz=True)]
Seconds = Annotated[float, Meta(ge=0)]

MAX_REQUEST_BYTES: Final = 256 * 1024
MAX_PROMPT: Final = 10_000
MAX_SEED: Final = 2**32 - 1

Prompt = Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT)]
Text = Annotated[str, Meta(max_length=MAX_PROMPT)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Side = Annotated[int, Meta(ge=64, le=4096, multiple_of=8)]


class Kind(StrEnum):
    IMAGE = "image"
    SPEECH = "speech"


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class ImageRequest(Struct, frozen=True, kw_only=True):
    """A picture. Width and height in pixels; ``seed`` null draws one at submission, which is stored."""

    prompt: Prompt
    negative_prompt: Text = ""
    model: Name | None = None
    width: Side = 1024
    height: Side = 1024
    steps: Annotated[int, Meta(ge=1, le=200)] = 20
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] | None = None
    guidance: Annotated[float, Meta(ge=0, le=50)] | None = None
    sampler: Name | None = None
    n: Annotated[int, Meta(ge=1, le=8)] = 1


class SpeechRequest(Struct, frozen=True, kw_only=True):
    """A transcription of the recording stored as ``artifact``; ``temperature`` as in Whisper, 0 to 1."""

    artifact: Name
    model: Name | None = None
    language: Annotated[str, Meta(pattern="^[a-z]{2,3}$")] | None = None
    prompt: Text | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] = 0.0
    translate: bool = False
    word_timestamps: bool = False
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = "json"


Request = ImageRequest | SpeechRequest


class InBatch(Struct, frozen=True, kw_only=True):
    """Which of ``size`` tasks, submitted at once, this is; ``place`` from 0."""

    batch_id: BatchId
    size: int
    place: int


class Submission(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """The whole of what was accepted, deadlines as instants; ``fingerprint`` is of the body as sent.

    ``backend``: run there for as long as that backend is in service and can, else wherever. ``origin``: the
    task that this one is a replay of.
    """

    priority: Priority = Priority.NORMAL
    tenant: str = "default"
    user: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}  # Any: the user's own JSON
    fingerprint: str = ""
    not_before: Instant | None = None
    start_deadline: Instant | None = None
    deadline: Instant | None = None
    run_timeout_s: float = 600.0
    max_attempts: int = 3
    backend: BackendId | None = None
    origin: TaskId | None = None
    batch: InBatch | None = None

    @property
    def kind(self) -> Kind:
        return Kind(str(self.__struct_config__.tag))

    @property
    def model(self) -> str:
        """The slug of the model asked for, ``any`` when none was named."""
        request: Request = self.request  # type: ignore[attr-defined]  # both variants have one
        return slug(request.model) if request.model else ANY_MODEL


class ImageSubmission(Submission, frozen=True, kw_only=True, tag="image"):
    request: ImageRequest


class SpeechSubmission(Submission, frozen=True, kw_only=True, tag="speech"):
    """``audio_bytes`` is the size of the recording, 0 where it was not known."""

    request: SpeechRequest
    audio_bytes: int = 0


AnySubmission = ImageSubmission | SpeechSubmission
