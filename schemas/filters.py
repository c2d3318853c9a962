"""Which tasks are meant: the filter of a list, and of an action on many tasks.

The one rule: pure, and the same members with the same meaning in a query and in a JSON body; an error
names the member and what is allowed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from schemas import text
from schemas.errors import Code, RejectedError
from schemas.ids import BatchId, parse_batch_id
from schemas.requests import Instant, Kind, Name, Priority
from schemas.task import FINAL, Status

ANY_STATUS: Final = tuple(status for status in Status if status is not Status.ABSENT)
UNFINISHED: Final = tuple(status for status in ANY_STATUS if status not in FINAL)
DEAD: Final = (Status.FAILED, Status.EXPIRED, Status.CANCELLED)
"""What can be redriven; FAILED alone are the dead letters."""


class Filter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What must all hold of a task; a member left out holds of every task.

    ``status``: one of these. ``model``: what was asked for, however spelled; ``any`` is no model named.
    ``backend``: that of the last attempt. ``error``: the code of what ended it. After is from that moment
    on, before is without it. ``text``: what has to stand in the prompt, as ``schemas.text`` reads it.
    """

    kind: Kind | None = None
    status: tuple[Status, ...] = ()
    tag: Name | None = None
    user: Name | None = None
    tenant: Name | None = None
    backend: Name | None = None
    model: Name | None = None
    error: Name | None = None
    priority: Priority | None = None
    batch: BatchId | None = None
    submitted_after: Instant | None = None
    submitted_before: Instant | None = None
    finished_after: Instant | None = None
    finished_before: Instant | None = None
    text: str | None = None


MEMBERS: Final = Filter.__struct_fields__
_CHOICES: Final[Mapping[str, Sequence[str]]] = {"kind": tuple(Kind), "priority": tuple(Priority)}
_TIMES: Final = frozenset(name for name in MEMBERS if name.endswith(("_after", "_before")))


def parse(raw: Mapping[str, Any], statuses: Sequence[Status] = ANY_STATUS) -> Filter:
    """Read a filter whose values are text, as a query has them; members that are none are not looked at.

    ``statuses`` are allowed; several are separated by commas.
    """  # Any: JSON, or text
    found: dict[str, Any] = {}
    for name in MEMBERS:
        if (value := raw.get(name)) is None:
            continue
        if not isinstance(value, str):
            raise RejectedError(Code.WRONG_TYPE, f"{name} is text", member=name)
        found[name] = _statuses(value, statuses) if name == "status" else _value(name, value)
    return Filter(**found)


def parse_body(raw: Mapping[str, Any], statuses: Sequence[Status], also: Sequence[str]) -> Filter:
    """Read what an action on many is about: members of a filter, or ``all``; ``also`` are its own members.

    Nothing at all is refused, so that no slip acts on everything.
    """  # Any: JSON
    known = (*MEMBERS, "all", *also)
    for name in raw:
        if name not in known:
            listed = ", ".join(sorted(known))
            raise RejectedError(
                Code.UNKNOWN_MEMBER,
                f"{name} is not a member; known are {listed}",
                member=name,
                allowed=sorted(known),
            )
    everything = raw.get("all", False)
    if not isinstance(everything, bool):
        raise RejectedError(Code.WRONG_TYPE, "all is true or false", member="all")
    chosen = parse(raw, statuses)
    if everything and chosen != Filter():
        raise RejectedError(Code.CONFLICTING_MEMBERS, "all and a filter exclude each other", member="all")
    if not everything and chosen == Filter():
        raise RejectedError(
            Code.MISSING_MEMBER,
            f'which tasks? One of {", ".join(MEMBERS)}, or "all": true',
            member="all",
            allowed=[*MEMBERS, "all"],
        )
    return chosen


def _statuses(value: str, allowed: Sequence[Status]) -> tuple[Status, ...]:
    named = [part.strip().upper() for part in value.split(",")]
    if not set(named) <= set(allowed):
        raise RejectedError(
            Code.OUT_OF_RANGE,
            f"status is one of {', '.join(allowed)}, or several with commas between them",
            member="status",
            allowed=list(allowed),
        )
    return tuple(Status(name) for name in dict.fromkeys(named))


def _value(name: str, value: str) -> object:
    """Read one member; a time is told from a name by what the member is called."""
    if name == "batch":
        return parse_batch_id(value, name)
    if name == "text":
        return _search(value)
    choices = _CHOICES.get(name)
    if choices is not None:
        if value not in choices:
            listed = ", ".join(choices)
            raise RejectedError(
                Code.OUT_OF_RANGE, f"{name} is one of {listed}", member=name, allowed=list(choices)
            )
        return Kind(value) if name == "kind" else Priority(value)
    try:
        return msgspec.convert(value, Instant if name in _TIMES else Name)
    except msgspec.ValidationError:
        form = "a time with its zone, as 2026-11-24T09:00:00Z" if name in _TIMES else "1 to 128 characters"
        raise RejectedError(Code.OUT_OF_RANGE, f"{name} is {form}", member=name) from None


def _search(value: str) -> str:
    """Check what is searched for."""
    wanted = text.search(value)
    if not wanted or len(value) > text.LONGEST:
        raise RejectedError(
            Code.OUT_OF_RANGE,
            f"text is 1 to {text.LONGEST} characters with a word of letters or digits among them",
            member="text",
        )
    if any(phrase.prefix and len(phrase.words[-1]) < text.SHORTEST_PREFIX for phrase in wanted):
        raise RejectedError(
            Code.OUT_OF_RANGE,
            f"text has at least {text.SHORTEST_PREFIX} letters before a *",
            member="text",
        )
    return value
