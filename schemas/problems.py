"""Problem documents (RFC 9457): what a refusal looks like over HTTP, and the status of each code.

The one rule: these shapes are the API's promise, and so is the status of a code.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from schemas.errors import Code, RejectedError
from schemas.ids import BatchId, TaskId


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
    batch_id: BatchId | None = None
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
    Code.BATCH_TOO_LARGE: 413,
    Code.UNKNOWN_UPLOAD: 404,
    Code.UPLOAD_IN_USE: 409,
    Code.WRONG_OFFSET: 409,
    Code.IDEMPOTENCY_KEY_REUSED: 422,
    Code.TASK_EXISTS: 409,
    Code.QUEUE_FULL: 503,
    Code.TENANT_QUEUE_FULL: 429,
    Code.STORAGE_FULL: 503,
    Code.UNKNOWN_TASK: 404,
    Code.UNKNOWN_BATCH: 404,
    Code.UNKNOWN_BACKEND: 404,
    Code.BACKEND_EXISTS: 409,
    Code.BACKEND_IN_USE: 409,
    Code.UNKNOWN_ROUTE: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.NOT_FINISHED: 409,
    Code.NO_RESULT: 409,
    Code.ERASED: 410,
    Code.NO_PREVIEW: 404,
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
        batch_id=error.extra.get("batch_id"),
        allowed=error.extra.get("allowed"),
        done=error.extra.get("done"),
    )
