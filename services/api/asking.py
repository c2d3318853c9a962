"""What the headers and the query of a request ask for.

The one rule: pure; what a client got wrong is refused by name, what it may leave out has its default.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from schemas.errors import Code, RejectedError
from schemas.requests import Instant

LONGEST_WAIT_S: Final = 60.0
DEFAULT_TENANT: Final = "default"
ETA: Final = b"~"
"""Stands in a task's ETag before when it should have ended."""

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_TENANT: Final = re.compile(r"[a-z0-9_-]{1,64}")
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\b")
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_ETA: Final = re.compile(rb"%b[^\",]*" % ETA)
_QUALITY: Final = re.compile(r";\s*q\s*=\s*([01](?:\.\d{0,3})?)")


class Preference(NamedTuple):
    """What ``Prefer`` asks for: to wait so long, or to be answered at once."""

    wait_s: int | None = None
    respond_async: bool = False

    @property
    def applied(self) -> bytes | None:
        return b"respond-async" if self.respond_async else None


def prefer(header: bytes | None) -> Preference:
    """Read ``Prefer``; what is not understood is ignored, as RFC 7240 wants it."""
    if not header:
        return Preference()
    text = header.decode("latin-1").lower()
    match = _WAIT.search(text)
    return Preference(
        min(int(match[1]), int(LONGEST_WAIT_S)) if match else None,
        "respond-async" in [part.strip() for part in text.split(",")],
    )


def idempotency_key(header: bytes | None) -> str | None:
    if header is None:
        return None
    key = header.decode("latin-1")
    if not _KEY.fullmatch(key):
        raise RejectedError(
            Code.OUT_OF_RANGE,
            "Idempotency-Key is 1 to 255 visible ASCII characters",
            member="Idempotency-Key",
        )
    return key


def tenant(header: bytes | None, *, trusted: bool) -> str:
    """Give the tenant that a gateway names, where it may."""
    if not trusted or header is None:
        return DEFAULT_TENANT
    name = header.decode("latin-1")
    if not _TENANT.fullmatch(name):
        raise RejectedError(
            Code.OUT_OF_RANGE,
            "Taskfold-Tenant is 1 to 64 characters of a to z, 0 to 9, _ and -",
            member="Taskfold-Tenant",
        )
    return name


def traceparent(header: bytes | None) -> str | None:
    """Give a well-formed trace context; any other is left out, as W3C wants it."""
    text = header.decode("latin-1") if header else ""
    return text if _TRACEPARENT.fullmatch(text) else None


def parameters(query: bytes, *allowed: str) -> Mapping[str, str]:
    """Read the query; an unknown parameter and a repeated one are refused."""
    if not query:
        return {}
    found: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in allowed:
            known = ", ".join(allowed) if allowed else "none"
            raise RejectedError(
                Code.UNKNOWN_MEMBER,
                f"{name} is not a query parameter here; known are: {known}",
                member=name,
                allowed=sorted(allowed),
            )
        if name in found:
            raise RejectedError(Code.CONFLICTING_MEMBERS, f"{name} is given twice", member=name)
        found[name] = value
    return found


def wait_s(text: str | None) -> float | None:
    """Read ``?wait=``: seconds from 0 to 60."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        raise RejectedError(Code.WRONG_TYPE, "wait is a number of seconds", member="wait") from None
    if not 0 <= seconds <= LONGEST_WAIT_S:
        raise RejectedError(Code.OUT_OF_RANGE, f"wait is 0 to {LONGEST_WAIT_S:g} seconds", member="wait")
    return seconds


def upload_offset(header: bytes | None) -> int:
    """Read ``Upload-Offset``: where a body begins in the whole, 0 where that is not said."""
    if header is None:
        return 0
    if not re.fullmatch(rb"\d{1,15}", header):
        raise RejectedError(Code.WRONG_TYPE, "Upload-Offset is a number of bytes", member="Upload-Offset")
    return int(header)


def upload_complete(header: bytes | None) -> bool:
    """Read ``Upload-Complete``: ``?0`` where more follows."""
    if header not in (None, b"?0", b"?1"):
        raise RejectedError(
            Code.WRONG_TYPE, "Upload-Complete is ?0 or ?1", member="Upload-Complete", allowed=["?0", "?1"]
        )
    return header != b"?0"


def instant(text: str, member: str) -> datetime:
    """Read a time; RFC 3339 with its zone, whose plus a query may have made a space."""
    try:
        return msgspec.convert(text.replace(" ", "+"), Instant)
    except msgspec.ValidationError:
        form = "a time with its zone, as 2026-11-24T09:00:00Z"
        raise RejectedError(Code.OUT_OF_RANGE, f"{member} is {form}", member=member) from None


def sequence(header: bytes) -> int:
    """Read ``Taskfold-Sequence``: how far the client has seen the log."""
    return whole_number(header.decode("latin-1"), "Taskfold-Sequence", 0, 2**63 - 1)


def whole_number(text: str, member: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[+-]?\d{1,19}", text):
        raise RejectedError(Code.WRONG_TYPE, f"{member} is a whole number", member=member)
    if not least <= int(text) <= most:
        raise RejectedError(Code.OUT_OF_RANGE, f"{member} is {least} to {most}", member=member)
    return int(text)


def matches(if_none_match: bytes | None, etag: bytes) -> bool:
    """Compare weakly, as ``If-None-Match`` wants it."""
    if if_none_match is None:
        return False
    if if_none_match == etag:
        return True
    given = [tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")]
    return b"*" in given or etag in given


def without_eta(if_none_match: bytes) -> bytes:
    """Leave out of each tag when the task should have ended."""
    return _ETA.sub(b"", if_none_match)


def byte_range(header: bytes | None, size: int) -> tuple[int, int] | None:
    """Give start and stop of the part asked for, None for the whole.

    RejectedError where no byte of it is there. What is not one range of bytes is ignored (RFC 9110).
    """
    match = _RANGE.fullmatch(header.decode("latin-1").replace(" ", "")) if header else None
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        start, stop = max(0, size - int(last)), size
        unsatisfiable = int(last) == 0 or size == 0
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
        unsatisfiable = start >= size
    if unsatisfiable:
        raise RejectedError(
            Code.RANGE_NOT_SATISFIABLE, f"there are {size} bytes", member="Range", size=size
        )
    return start, stop


def wants_json(accept: bytes | None) -> bool:
    """Whether the history is wanted as JSON; else it is streamed."""
    if not accept:
        return False
    weights = {}
    for part in accept.decode("latin-1").lower().split(","):
        found = _QUALITY.search(part)
        weights[part.split(";")[0].strip()] = float(found[1]) if found else 1.0
    return weights.get("application/json", 0) > weights.get("text/event-stream", 0)


def media_type(content_type: bytes | None) -> str:
    """Give the bare media type of a body, empty where the client does not say."""
    return content_type.decode("latin-1").split(";")[0].strip().lower() if content_type else ""
