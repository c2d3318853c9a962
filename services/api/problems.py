"""Problem documents (RFC 9457): every refusal and every failure leaves the api through here.

The one rule: a client learns a stable code and what to do, and nothing of our insides.
"""

from http import HTTPStatus
from typing import Any, Final

import structlog
from litestar import Response
from litestar.exceptions import HTTPException

from schemas.errors import (
    Code,
    DisconnectedError,
    OutcomeUnknownError,
    RejectedError,
    StorageFullError,
    TaskfoldError,
    UnavailableError,
)
from schemas.ids import parse_task_id
from schemas.problems import problem
from schemas.requests import MAX_REQUEST_BYTES
from schemas.views import API
from services.api.answer import Ask, encode
from services.api.queries import ReadModelAwayError

log = structlog.get_logger()

MEDIA_TYPE: Final = "application/problem+json"
_MIB: Final = 1024 * 1024
RETRY_AFTER_S: Final = {
    Code.NATS_AWAY: 2,
    Code.OUTCOME_UNKNOWN: 2,
    Code.READ_MODEL_AWAY: 2,
    Code.QUEUE_FULL: 5,
    Code.TENANT_QUEUE_FULL: 5,
    Code.STORAGE_FULL: 60,
    Code.SHUTTING_DOWN: 2,
    Code.NOT_FINISHED: 1,
}
_ON_MANY: Final = ("batch", "cancel", "counts", "redrive")
_OF_STATUS: Final = {
    HTTPStatus.BAD_REQUEST: (Code.MALFORMED, "the request cannot be read"),
    HTTPStatus.NOT_FOUND: (Code.UNKNOWN_ROUTE, "there is no such route; /schema lists them"),
    HTTPStatus.METHOD_NOT_ALLOWED: (Code.METHOD_NOT_ALLOWED, "the route has no such method"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (Code.BODY_TOO_LARGE, "the body is too large"),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: (Code.UNSUPPORTED_MEDIA_TYPE, "the body has another media type"),
}


class ClientGoneError(TaskfoldError):
    """The client left in the middle of its request; nobody reads the answer."""


def answer(request: Ask, error: Exception) -> Response[bytes]:
    """Turn whatever was raised into the answer."""
    refusal, headers = refused(request, error)
    if retry_after_s := refusal.extra.get("retry_after_s") or RETRY_AFTER_S.get(refusal.code):
        headers["Retry-After"] = str(retry_after_s)
    if refusal.code is Code.RANGE_NOT_SATISFIABLE:
        headers["Content-Range"] = f"bytes */{refusal.extra['size']}"
    if refusal.code is Code.WRONG_OFFSET:
        headers["Upload-Offset"] = str(refusal.extra["offset"])
    shown = problem(refusal)
    return Response(encode(shown), status_code=shown.status, headers=headers, media_type=MEDIA_TYPE)


def refused(request: Ask, error: Exception) -> tuple[RejectedError, dict[str, str]]:
    """Give the refusal that an error amounts to, and headers that belong to it."""
    match error:
        case RejectedError():
            return error, {}
        case HTTPException():
            return _litestars(request, error)
        case ReadModelAwayError():
            return RejectedError(Code.READ_MODEL_AWAY, "the read model is away and being rebuilt"), {}
        case StorageFullError():
            return storage_full(), {}
        case OutcomeUnknownError():
            return outcome_unknown(), {}
        case DisconnectedError() | UnavailableError():
            return RejectedError(Code.NATS_AWAY, "NATS does not answer; nothing was stored"), {}
        case ClientGoneError():
            return RejectedError(Code.MALFORMED, "the request ended too early"), {}
        case _:
            return _unexpected(request, error)


def storage_full() -> RejectedError:
    return RejectedError(Code.STORAGE_FULL, "the storage is full; nothing was stored")


def outcome_unknown(**extra: Any) -> RejectedError:  # Any: see RejectedError
    return RejectedError(
        Code.OUTCOME_UNKNOWN, "NATS did not answer in time; it may be stored or not", **extra
    )


def _litestars(request: Ask, error: HTTPException) -> tuple[RejectedError, dict[str, str]]:
    known = _OF_STATUS.get(HTTPStatus(error.status_code))
    if known is None:
        return _unexpected(request, error)
    code, detail = known
    if code is Code.BODY_TOO_LARGE:
        return too_large(request), {}
    if code is Code.METHOD_NOT_ALLOWED and not _names_a_task(request.scope["path"]):
        code, detail = _OF_STATUS[HTTPStatus.NOT_FOUND]
        return RejectedError(code, detail), {}
    return RejectedError(code, detail), error.headers or {}


def _names_a_task(path: str) -> bool:
    """Whether a path that looks like a task's has the id of one: ``/tasks/batch`` is no task's route."""
    under_tasks = path.removeprefix(f"{API}/tasks/")
    if under_tasks == path or under_tasks in _ON_MANY:
        return True
    try:
        parse_task_id(under_tasks.partition("/")[0])
    except RejectedError:
        return False
    return True


def too_large(request: Ask) -> RejectedError:
    """Say how large a body may be where it came to."""
    limit = request.route_handler.opt.get("max_upload_mib")
    most = f"{limit} MiB" if limit else f"{MAX_REQUEST_BYTES} bytes"
    return RejectedError(Code.BODY_TOO_LARGE, f"the body has at most {most}")


def _unexpected(request: Ask, error: Exception) -> tuple[RejectedError, dict[str, str]]:
    log.error("api.failed", method=request.method, path=request.scope["path"], exc_info=error)
    return RejectedError(Code.INTERNAL, "something failed here that should not; it is in the log"), {}
