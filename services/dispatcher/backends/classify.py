"""What a server's answer, or the lack of one, means for the task. Pure.

The one rule: the class is found from the status and the body together, since servers answer 500 to a
wrong request and 404 to a missing model; nothing else in the adapters looks at a status to judge an error.
"""

import re
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from schemas.events import ErrorClass
from services.dispatcher.backends.base import (
    Failed,
    Finished,
    Health,
    Loading,
    Misconfigured,
    Ready,
    Refused,
    Silent,
    failed,
)

T = TypeVar("T")

OK: Final = 200
ACCEPTED: Final = 202
NOT_FOUND: Final = 404
GONE: Final = 410
UNAVAILABLE: Final = 503

_MAX_RETRY_AFTER_S: Final = 3600.0
_READ: Final = 64 * 1024
_SHOWN: Final = 1000

_CLIENT_ERROR: Final = range(400, 500)
_SERVER_ERROR: Final = range(500, 600)
_REDIRECT: Final = range(300, 400)

_OVERLOADED: Final = frozenset({429, UNAVAILABLE})
_DENIED: Final = frozenset({401, 403, 407})
_MODEL_STATUS: Final = frozenset({400, NOT_FOUND})
_NO_ROUTE: Final = frozenset({405, 501})
_PASSING: Final = frozenset({408, 409, 425, 499})

_OUT_OF_MEMORY: Final = re.compile(r"out of memory|outofmemory|cuda", re.IGNORECASE)
_OUR_MISTAKE: Final = re.compile(r"json\.exception|type_error|parse_error")
_MODEL_MISSING: Final = re.compile(
    r"\bunknown model\b|\bmodel\b.*(not installed|does not exist|not found)", re.IGNORECASE | re.DOTALL
)
_BARE_NOT_FOUND: Final = re.compile(
    r"(404:? *)?((file|page) )?(not found)?( \(/[^)]*\))?\.?", re.IGNORECASE
)


class Reply(Struct, frozen=True):
    """A whole answer of a server, whatever its status."""

    status: int
    body: bytes = b""
    retry_after: str | None = None


class Trouble(StrEnum):
    """Why there is no answer. REFUSED: the process is gone. SILENT: connected, and nothing came in time."""

    REFUSED = "connection_refused"
    UNREACHABLE = "backend_unreachable"
    LOST = "connection_lost"
    SILENT = "no_answer"
    TOO_LARGE = "response_too_large"
    UNUSABLE_URL = "unusable_url"


class Broken(Struct, frozen=True):
    """An exchange that brought no answer."""

    trouble: Trouble
    reason: str


_BLAME: Final = {
    Trouble.REFUSED: ErrorClass.BACKEND_DOWN,
    Trouble.UNREACHABLE: ErrorClass.BACKEND_DOWN,
    Trouble.LOST: ErrorClass.TRANSIENT,
    Trouble.SILENT: ErrorClass.TRANSIENT,
    Trouble.TOO_LARGE: ErrorClass.TRANSIENT,
    Trouble.UNUSABLE_URL: ErrorClass.MISCONFIGURED,
}


def no_success(answer: Reply | Broken) -> Failed:
    """Say what an exchange that did not bring what was asked for means."""
    match answer:
        case Broken():
            return failed(_BLAME[answer.trouble], answer.trouble.value, answer.reason)
        case Reply():
            text = _text(answer.body)
            error_class, code = _verdict(answer.status, text)
            wait_s = retry_after_s(answer.retry_after) if error_class is ErrorClass.OVERLOADED else None
            message = f"HTTP {answer.status}: {said(answer.body) or 'no message'}"
            return failed(error_class, code, message, wait_s)


def job_failed(message: str) -> Failed:
    """Classify what a server says of a job that it had accepted."""
    code = "backend_oom" if _OUT_OF_MEMORY.search(message) else "backend_error"
    return failed(ErrorClass.TRANSIENT, code, message)


def cancelled() -> Failed:
    """Give the end of every call that was stopped: the caller asked for it, so nobody is to blame."""
    return failed(ErrorClass.PERMANENT, "cancelled", "stopped on request")


def lease_lost() -> Failed:
    """Give the end of a call that may not go on: what it has not asked for yet is another's to ask for."""
    return failed(ErrorClass.LOST, "lease_lost", "the GPU was given to another between pictures")


def unless_stopped(end: Finished | Failed, *, stopped: bool) -> Finished | Failed:
    """Let no call that was stopped report success, which a reader might record by mistake."""
    return cancelled() if stopped and isinstance(end, Finished) else end


def wrong_kind() -> Failed:
    """Give the end of a job that this protocol has no words for; the match should not have allowed it."""
    return failed(ErrorClass.PERMANENT, "wrong_kind", "this backend does not do this kind of task")


def bad_answer(message: str) -> Failed:
    return failed(ErrorClass.TRANSIENT, "bad_answer", message)


def decoded(body: bytes, shape: type[T]) -> T | None:
    """Read JSON of that shape; None for anything else, however it is broken."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def said(body: bytes) -> str:
    """Extract a server's own words from the shapes that servers wrap them in, else the text as it is."""
    text = _text(body)
    words = _spoken(decoded(text.encode(), Any))  # Any: whatever JSON can say
    return (words or text)[:_SHOWN]


def retry_after_s(header: str | None) -> float | None:
    """Read Retry-After in seconds; its other form, a date, would need a clock and is not used by these."""
    if header is None or not header.strip().isdecimal():
        return None
    return min(float(header), _MAX_RETRY_AFTER_S)


def health(answer: Reply | Broken) -> Health:
    """Say what an answer to a probe means; a list of models is read where there is one."""
    match answer:
        case Broken():
            return _health_without_answer(answer)
        case Reply():
            reason = f"HTTP {answer.status}: {said(answer.body) or 'no message'}"
            if answer.status == OK:
                return Ready(models_listed(answer.body))
            if answer.status in _OVERLOADED or answer.status in _SERVER_ERROR:
                return Loading(reason)
            return Misconfigured(reason)


def models_listed(body: bytes) -> tuple[str, ...]:
    """Read the names in an answer of ``/v1/models``; empty where it is no such answer."""
    listed = decoded(body, _Models)
    return tuple(model.id for model in listed.data if model.id) if listed else ()


class _Model(Struct, frozen=True):
    id: str = ""


class _Models(Struct, frozen=True):
    data: tuple[_Model, ...] = ()


def _health_without_answer(broken: Broken) -> Health:
    match broken.trouble:
        case Trouble.REFUSED | Trouble.UNREACHABLE | Trouble.LOST:
            return Refused(broken.reason)
        case Trouble.SILENT:
            return Silent()
        case Trouble.TOO_LARGE | Trouble.UNUSABLE_URL:
            return Misconfigured(broken.reason)


def _verdict(status: int, text: str) -> tuple[ErrorClass, str]:
    if status in _OVERLOADED:
        return ErrorClass.OVERLOADED, "backend_busy"
    if status in _DENIED:
        return ErrorClass.MISCONFIGURED, "access_denied"
    if status in _REDIRECT:
        return ErrorClass.MISCONFIGURED, "redirected"
    if status in _SERVER_ERROR and status not in _NO_ROUTE:
        return _server_error(text)
    if status in _CLIENT_ERROR or status in _NO_ROUTE:
        return _client_error(status, text)
    return ErrorClass.TRANSIENT, "bad_answer"


def _server_error(text: str) -> tuple[ErrorClass, str]:
    if _OUR_MISTAKE.search(text):
        return ErrorClass.PERMANENT, "rejected_by_backend"
    code = "backend_oom" if _OUT_OF_MEMORY.search(text) else "backend_error"
    return ErrorClass.TRANSIENT, code


def _client_error(status: int, text: str) -> tuple[ErrorClass, str]:
    if status in _MODEL_STATUS and _MODEL_MISSING.search(text):
        return ErrorClass.MISCONFIGURED, "model_missing"
    # A 404 that says nothing is a router's: the server lacks the route, whatever the task asks for.
    if status in _NO_ROUTE or (status == NOT_FOUND and _BARE_NOT_FOUND.fullmatch(said(text.encode()))):
        return ErrorClass.MISCONFIGURED, "no_such_route"
    if status in _PASSING:
        return ErrorClass.TRANSIENT, "backend_error"
    return ErrorClass.PERMANENT, "rejected_by_backend"


def _text(body: bytes) -> str:
    return body[:_READ].decode("utf-8", "replace").strip()


def _spoken(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_spoken, value)))
    if isinstance(value, dict):
        place = ".".join(map(str, loc)) if isinstance(loc := value.get("loc"), list) else ""
        parts = [_spoken(value.get(member)) for member in ("error", "message", "msg", "detail", "errors")]
        return ": ".join(filter(None, (place, *parts)))
    return ""
