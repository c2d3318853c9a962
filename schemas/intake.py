"""From what a client sent to a Submission: every check of a request that needs no look at the world.

The one rule: a refusal names the member and what is allowed.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from schemas import envelope
from schemas.checking import Raw, check
from schemas.errors import Code, RejectedError
from schemas.ids import BackendId, TaskId
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

MAX_TOGETHER: Final = 1_000
MAX_TOGETHER_MIB: Final = 8
MAX_METADATA_BYTES: Final = 16 * 1024
MAX_METADATA_LEVELS: Final = 16
MAX_DELAY_S: Final = 30 * 86_400


class Common(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may be said of a task of any kind. Times in seconds count from submission or ``not_before``.

    ``backend``: run there while that backend is in service. Of the two deadlines the earlier one ends it.
    What is as by default is not encoded, so that a new member leaves old fingerprints as they are.
    """

    priority: Priority = Priority.NORMAL
    not_before: Instant | None = None
    delay_s: Annotated[float, Meta(ge=0, le=MAX_DELAY_S)] | None = None
    start_deadline_s: Annotated[float, Meta(gt=0)] | None = None
    deadline_s: Annotated[float, Meta(gt=0)] | None = None
    run_timeout_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=20)] | None = None
    backend: Name | None = None
    user: Name | None = None
    tags: Annotated[tuple[Name, ...], Meta(max_length=32)] = ()
    metadata: Raw = {}


class Intake(NamedTuple):
    """A body that has been checked; ``origin``: the task that it is a replay of."""

    request: Request
    common: Common
    origin: TaskId | None = None


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
_TASKS: Final = "tasks"
_decode: Final = msgspec.json.Decoder().decode
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


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


def together(body: bytes) -> list[bytes]:
    """Take apart ``{"tasks": [{…}, …]}``; each is a body for ``read_json`` and ``nested``."""
    try:
        members = _decode_members(body)
    except (ValueError, RecursionError) as error:
        raise RejectedError(Code.MALFORMED, f"the body is not a JSON object: {error}") from error
    for name in members:
        if name != _TASKS:
            raise RejectedError(
                Code.UNKNOWN_MEMBER,
                f"{name} is not a member; known is tasks",
                member=name,
                allowed=[_TASKS],
            )
    if _TASKS not in members:
        raise RejectedError(Code.MISSING_MEMBER, "tasks is required", member=_TASKS)
    try:
        tasks = _decode_list(members[_TASKS])
    except (ValueError, RecursionError):
        raise RejectedError(Code.WRONG_TYPE, "tasks is a list", member=_TASKS) from None
    if not 1 <= len(tasks) <= MAX_TOGETHER:
        raise RejectedError(
            Code.OUT_OF_RANGE, f"tasks has 1 to {MAX_TOGETHER} members, not {len(tasks)}", member=_TASKS
        )
    return [bytes(task) for task in tasks]


def flat(kind: Kind, raw: Raw, *, strict: bool = True) -> Intake:
    """Check a body in which the members of the request and the common ones stand side by side.

    ``strict`` False takes text for numbers and booleans, as a form sends them.
    """
    common = {name: value for name, value in raw.items() if name in _COMMON}
    request = {name: value for name, value in raw.items() if name not in _COMMON}
    return checked(kind, request, common, "", strict=strict)


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
    return checked(Kind(kind), request, common, "request.", strict=True)


def checked(kind: Kind, request: Raw, common: Raw, prefix: str, *, strict: bool) -> Intake:
    """Check the members of a request and the common ones; ``prefix`` is that of the request's."""
    wanted = check(REQUESTS[kind], request, prefix, strict=strict, also=frozenset() if prefix else _COMMON)
    if isinstance(wanted, ImageRequest) and not wanted.prompt.strip():
        raise RejectedError(
            Code.OUT_OF_RANGE, "prompt has at least one visible character", member=f"{prefix}prompt"
        )
    found = check(Common, common, "", strict=strict, also=frozenset({"kind", "request"}))
    if found.not_before is not None and found.delay_s is not None:
        raise RejectedError(
            Code.CONFLICTING_MEMBERS, "not_before and delay_s exclude each other", member="delay_s"
        )
    _check_metadata(found.metadata)
    return Intake(wanted, found)


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


def fingerprint(intake: Intake) -> str:
    """Digest what was sent, so that the same Idempotency-Key with another body is noticed."""
    said = intake if intake.origin else intake[:2]
    content = msgspec.json.encode(list(said), order="deterministic")
    return hashlib.sha256(content).hexdigest()


def fingerprint_of_all(fingerprints: Iterable[str]) -> str:
    """Digest what was sent together: any other task, or the same in another order, is another body."""
    return hashlib.sha256("".join(fingerprints).encode()).hexdigest()


def submission(
    intake: Intake,
    *,
    now: datetime,
    seed: int,
    limits: Limits,
    tenant: str,
    fingerprint: str,
    audio_bytes: int = 0,
) -> AnySubmission:
    """Fix what was left open, the seed and the deadlines, and put it all into one value."""
    request, common, origin = intake
    not_before = _not_before(common, now)
    begin = not_before or now
    start_s = common.start_deadline_s or limits.start_deadline_s
    total_s = common.deadline_s or max(start_s, limits.deadline_s)
    start_s = min(start_s, total_s)
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
        "backend": BackendId(common.backend) if common.backend else None,
        "origin": origin,
    }
    match request:
        case ImageRequest():
            if request.seed is None:
                request = msgspec.structs.replace(request, seed=seed)
            return ImageSubmission(request=request, **members)
        case SpeechRequest():
            return SpeechSubmission(request=request, audio_bytes=audio_bytes, **members)


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
        member = "start_deadline_s" if common.deadline_s is None else "deadline_s"
    else:
        member = "not_before" if common.delay_s is None else "delay_s"
    latest = envelope.timestamp(now + timedelta(seconds=limits.horizon_s))
    raise RejectedError(
        Code.OUT_OF_RANGE,
        f"{member}: the start plus the time to finish, {total_s:g} s, is at most {latest}: "
        "no task outlives the log",
        member=member,
    )
