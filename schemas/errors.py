"""Every error that is raised on purpose, grouped by what the caller should do about it.

TaskfoldError
├── RejectedError            tell the client: the request is wrong or cannot be done now
├── ConflictError            someone wrote first: look the task up, decide again
├── UndecodableError         the bytes are not what their name says: count it, go on
└── UnavailableError         wait, then try again
    ├── DisconnectedError    NATS is away; nothing was sent
    ├── OutcomeUnknownError  it was sent, and whether it was stored is not known
    └── StorageFullError     the server has no room left

The one rule: branch on the class or on ``code``, never on an error's text.
"""

from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """The stable names of refusals; ``docs/api.md`` lists them with their HTTP status."""

    MALFORMED = "malformed"
    UNKNOWN_MEMBER = "unknown_member"
    MISSING_MEMBER = "missing_member"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    CONFLICTING_MEMBERS = "conflicting_members"
    UNKNOWN_KIND = "unknown_kind"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_ARTIFACT = "unknown_artifact"
    INVALID_ID = "invalid_id"
    UNSUPPORTED_AUDIO = "unsupported_audio"
    BROKEN_AUDIO = "broken_audio"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    BODY_TOO_LARGE = "body_too_large"
    BATCH_TOO_LARGE = "batch_too_large"
    UNKNOWN_UPLOAD = "unknown_upload"
    UPLOAD_IN_USE = "upload_in_use"
    WRONG_OFFSET = "wrong_offset"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    TASK_EXISTS = "task_exists"
    QUEUE_FULL = "queue_full"
    TENANT_QUEUE_FULL = "tenant_queue_full"
    STORAGE_FULL = "storage_full"
    UNKNOWN_TASK = "unknown_task"
    UNKNOWN_BATCH = "unknown_batch"
    UNKNOWN_BACKEND = "unknown_backend"
    BACKEND_EXISTS = "backend_exists"
    BACKEND_IN_USE = "backend_in_use"
    UNKNOWN_ROUTE = "unknown_route"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_FINISHED = "not_finished"
    NO_RESULT = "no_result"
    ERASED = "erased"
    NO_PREVIEW = "no_preview"
    NO_SUCH_ARTIFACT = "no_such_artifact"
    EXPIRED_ARTIFACT = "expired_artifact"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    NATS_AWAY = "nats_away"
    OUTCOME_UNKNOWN = "outcome_unknown"
    READ_MODEL_AWAY = "read_model_away"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"


class TaskfoldError(Exception):
    """Base of every error raised on purpose."""


class RejectedError(TaskfoldError):
    """The request is refused; nothing was stored.

    ``member`` is the path of the wrong member (``request.width``), ``extra`` more members of the
    problem document, such as the allowed values.
    """

    def __init__(
        self, code: Code, detail: str, *, member: str | None = None, **extra: Any
    ) -> None:  # Any: whatever JSON can say
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.member = member
        self.extra = extra


class ConflictError(TaskfoldError):
    """Another writer appended to the same task first."""


class UndecodableError(TaskfoldError):
    """The bytes are not what their type says they are."""


class UnavailableError(TaskfoldError):
    """Something we depend on does not answer now."""


class DisconnectedError(UnavailableError):
    """There is no connection to NATS; nothing was sent."""


class OutcomeUnknownError(UnavailableError):
    """The append was sent and no answer came: it may be stored or not."""


class StorageFullError(UnavailableError):
    """The NATS server has no room left for what was published."""
