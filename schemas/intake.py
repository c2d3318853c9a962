"""From what a client sent to a Submission: every check of a request that needs no look at the world.

The one rule: a refusal names the member and what is allowed. The limits stand in the annotations of
``requests``; this module only finds out which one a body has broken.
"""

import hashlib
import types
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from schemas import envelope
from schemas.errors import Code, RejectedError
from schemas.requests import (
    MAX_REQUEST_BYTES,
    AnySubmission,
    ImageRequest,
    ImageSubmission,
    Instant,
    Kind,
    Name,
    Priority,
    Request,
    SpeechRequest,
    SpeechSubmission,
)

Raw = dict[str, Any]  # Any: JSON, not yet checked
S = TypeVar("S", bound=Struct)

MAX_METADATA_BYTES: Final = 16 * 1024
MAX_METADATA_LEVELS: Final = 16
MAX_DELAY_S: Final = 30 * 86_400


class Common(Struct, frozen=True, kw_only=True):
    """What may be said of a task of any kind. Times in seconds count from submission or ``not_before``."""

    priority: Priority = Priority.NORMAL
    not_before: Instant | None = None
    delay_s: Annotated[float, Meta(ge=0, le=MAX_DELAY_S)] | None = None
    start_deadline_s: Annotated[float, Meta(gt=0)] | None = None
    run_timeout_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=20)] | None = None
    user: Name | None = None
    tags: Annotated[tuple[Name, ...], Meta(max_length=32)] = ()
    metadata: Raw = {}


class Intake(NamedTuple):
    """A body that has been checked."""

    request: Request
    common: Common


class Limits(Struct, frozen=True, kw_only=True):
    """The settings that a submission is measured by; ``horizon_s`` is how long the log keeps a task."""

    start_deadline_s: float
    deadline_s: float
    run_timeout_s: float
    max_attempts: int
    horizon_s: float


REQUESTS: Final[dict[Kind, type[ImageRequest] | type[SpeechRequest]]] = {
    Kind.IMAGE: ImageRequest,
    Kind.SPEECH: SpeechRequest,
}
_COMMON: Final = frozenset(Common.__struct_fields__)
_decode: Final = msgspec.json.Decoder().decode


def read_json(body: bytes) -> Raw:
    """Decode a JSON object; RejectedError for anything else, and for more than a request may have."""
    if len(body) > MAX_REQUEST_BYTES:
        raise RejectedError(Code.BODY_TOO_LARGE, f"a request has at most {MAX_REQUEST_BYTES} bytes")
    try:
        raw = _decode(body)
    except (ValueError, RecursionError) as error:  # also what is not UTF-8, or nested without end
        raise RejectedError(Code.MALFORMED, f"the body is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise RejectedError(Code.MALFORMED, "the body is a JSON object")
    return raw


def flat(kind: Kind, raw: Raw, *, strict: bool = True) -> Intake:
    """Check a body in which the members of the request and the common ones stand side by side.

    ``strict`` False takes text for numbers and booleans, as a form sends them.
    """
    common = {name: value for name, value in raw.items() if name in _COMMON}
    request = {name: value for name, value in raw.items() if name not in _COMMON}
    return _checked(kind, request, common, "", strict=strict)


def nested(raw: Raw) -> Intake:
    """Check ``{"kind": …, "request": {…}, …common members}``."""
    common = dict(raw)
    kind = common.pop("kind", None)
    request = common.pop("request", None)
    if kind is None or request is None:
        member = "kind" if kind is None else "request"
        raise RejectedError(Code.MISSING_MEMBER, f"{member} is required", member=member)
    if kind not in list(Kind):
        raise RejectedError(
            Code.UNKNOWN_KIND, f"kind is one of {', '.join(Kind)}", member="kind", allowed=list(Kind)
        )
    if not isinstance(request, dict):
        raise RejectedError(Code.WRONG_TYPE, "request is an object", member="request")
    return _checked(Kind(kind), request, common, "request.", strict=True)


def _checked(kind: Kind, request: Raw, common: Raw, prefix: str, *, strict: bool) -> Intake:
    checked = check(REQUESTS[kind], request, prefix, strict=strict, also=frozenset() if prefix else _COMMON)
    if isinstance(checked, ImageRequest) and not checked.prompt.strip():
        raise RejectedError(
            Code.OUT_OF_RANGE, "prompt has at least one visible character", member=f"{prefix}prompt"
        )
    found = check(Common, common, "", strict=strict, also=frozenset({"kind", "request"}))
    if found.not_before is not None and found.delay_s is not None:
        raise RejectedError(
            Code.CONFLICTING_MEMBERS, "not_before and delay_s exclude each other", member="delay_s"
        )
    _check_metadata(found.metadata)
    return Intake(checked, found)


def _check_metadata(metadata: Raw) -> None:
    """Bound what every later reader has to decode."""
    if _deeper(metadata, MAX_METADATA_LEVELS):
        limit = f"{MAX_METADATA_LEVELS} levels"
    elif len(msgspec.json.encode(metadata)) > MAX_METADATA_BYTES:
        limit = f"{MAX_METADATA_BYTES} bytes of JSON"
    else:
        return
    raise RejectedError(Code.OUT_OF_RANGE, f"metadata has at most {limit}", member="metadata")


def _deeper(value: Any, levels: int) -> bool:  # Any: JSON
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(one, levels - 1) for one in inner)


def check(
    kind: type[S], raw: Raw, prefix: str = "", *, strict: bool = True, also: frozenset[str] = frozenset()
) -> S:
    """Convert to a struct; ``also`` are names to list beside the struct's own when one is unknown."""
    known = kind.__struct_fields__
    for name in raw:
        if name not in known:
            allowed = sorted({*known, *also})
            raise RejectedError(
                Code.UNKNOWN_MEMBER,
                f"{prefix}{name} is not a member; known are {', '.join(allowed)}",
                member=f"{prefix}{name}",
                allowed=allowed,
            )
    try:
        return msgspec.convert(raw, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _explained(kind, raw, prefix, strict=strict) or RejectedError(
            Code.WRONG_TYPE, str(error)
        ) from error


def _explained(kind: type[Struct], raw: Raw, prefix: str, *, strict: bool) -> RejectedError | None:
    """Find the member that does not convert, and whether its type or its value is wrong."""
    for field in msgspec.structs.fields(kind):
        member = f"{prefix}{field.name}"
        if field.name not in raw:
            if field.required:
                return RejectedError(Code.MISSING_MEMBER, f"{member} is required", member=member)
            continue
        value = raw[field.name]
        try:
            msgspec.convert(value, field.type, strict=strict)
        except msgspec.ValidationError as error:
            choices = _choices(field.type)
            if choices and isinstance(value, str):
                return RejectedError(
                    Code.OUT_OF_RANGE,
                    f"{member} is one of {', '.join(choices)}",
                    member=member,
                    allowed=choices,
                )
            code = Code.OUT_OF_RANGE if _converts(value, _bare(field.type), strict) else Code.WRONG_TYPE
            return RejectedError(code, f"{member}: {error}", member=member)
    return None


def _converts(value: Any, form: Any, strict: bool) -> bool:  # noqa: FBT001 - passed through; Any: a type form
    try:
        msgspec.convert(value, form, strict=strict)
    except msgspec.ValidationError:
        return False
    return True


def _bare(form: Any) -> Any:  # Any: a type form, for which there is no name
    """Take the limits off a type and leave the type."""
    origin = get_origin(form)
    if origin is Annotated:
        return _bare(get_args(form)[0])
    if origin in (Union, types.UnionType):
        return Union[tuple(_bare(part) for part in get_args(form))]  # noqa: UP007 - built at run time
    if origin is tuple:
        return tuple[tuple(part if part is ... else _bare(part) for part in get_args(form))]  # type: ignore[misc]  # built at run time
    return form


def _choices(form: Any) -> list[str]:  # Any: as above
    origin = get_origin(form)
    if origin is Literal:
        return [str(choice) for choice in get_args(form)]
    if origin in (Annotated, Union, types.UnionType):
        return [choice for part in get_args(form) for choice in _choices(part)]
    if isinstance(form, type) and issubclass(form, StrEnum):
        return [str(member) for member in form]
    return []


def fingerprint(intake: Intake) -> str:
    """Digest what was sent, so that the same Idempotency-Key with another body is noticed."""
    content = msgspec.json.encode(list(intake), order="deterministic")
    return hashlib.sha256(content).hexdigest()


def submission(
    intake: Intake, *, now: datetime, seed: int, limits: Limits, tenant: str, fingerprint: str
) -> AnySubmission:
    """Fix what was left open, the seed and the deadlines, and put it all into one value."""
    request, common = intake
    not_before = _not_before(common, now)
    begin = not_before or now
    start_s = common.start_deadline_s or limits.start_deadline_s
    total_s = max(start_s, limits.deadline_s)
    _check_horizon(common, (begin - now).total_seconds(), total_s, now, limits)
    begin = begin.astimezone(UTC)
    members: dict[str, Any] = {
        "priority": common.priority,
        "tenant": tenant,
        "user": common.user,
        "tags": common.tags,
        "metadata": common.metadata,
        "fingerprint": fingerprint,
        "not_before": begin if not_before else None,
        "start_deadline": begin + timedelta(seconds=start_s),
        "deadline": begin + timedelta(seconds=total_s),
        "run_timeout_s": common.run_timeout_s or limits.run_timeout_s,
        "max_attempts": common.max_attempts or limits.max_attempts,
    }
    match request:
        case ImageRequest():
            if request.seed is None:
                request = msgspec.structs.replace(request, seed=seed)
            return ImageSubmission(request=request, **members)
        case SpeechRequest():
            return SpeechSubmission(request=request, **members)


def _not_before(common: Common, now: datetime) -> datetime | None:
    """Give the moment before which it must not start, None where that is now or past."""
    moment = common.not_before
    if common.delay_s is not None:
        moment = now + timedelta(seconds=common.delay_s)
    return moment if moment is not None and moment > now else None


def _check_horizon(common: Common, wait_s: float, total_s: float, now: datetime, limits: Limits) -> None:
    """Refuse what could outlive the log. In seconds, since no date is as far as what a client may write."""
    if wait_s + total_s <= limits.horizon_s:
        return
    if total_s > limits.horizon_s:
        member = "start_deadline_s"
    else:
        member = "not_before" if common.delay_s is None else "delay_s"
    latest = envelope.timestamp(now + timedelta(seconds=limits.horizon_s))
    raise RejectedError(
        Code.OUT_OF_RANGE,
        f"{member}: the start plus the time to finish, {total_s:g} s, is at most {latest}: "
        "no task outlives the log",
        member=member,
    )
