"""What clients say of a backend: that there is one, that it lives, what is changed, that it may go. Pure.

The one rule: a member that the API has changed stays as it is until whoever else speaks for the backend,
its configuration or its own announcement, says something new of that member.
"""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from schemas import workflow
from schemas.checking import Raw, check
from schemas.errors import Code, RejectedError
from schemas.ids import BackendId
from schemas.registry import (
    KIND_OF,
    Backend,
    Count,
    Protocol,
    Source,
    Wanted,
    Weight,
    from_url,
)
from schemas.requests import Kind

Url = Annotated[str, Meta(max_length=2048, pattern=r"^\S+$")]
Model = Annotated[str, Meta(max_length=256, pattern=r"^[^=\s][^=]*(=.+)?$")]
Labels = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=63)], Annotated[str, Meta(max_length=256)]],
    Meta(max_length=32),
]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Members(Struct, frozen=True, kw_only=True):
    """What may be said of any backend; ``workflow`` as in the file that the settings name."""

    protocol: Protocol | None = None
    models: Annotated[tuple[Model, ...], Meta(max_length=256)] = ()
    slots: Count = 1
    keeps: Count = 1
    weight: Weight = 1.0
    labels: Labels = {}
    api_key: Annotated[str, Meta(max_length=4096, pattern=r"^[\x21-\x7e]+$")] | None = None
    disconnect_cancels: bool = False
    workflow: Raw | None = None
    wanted: Literal["on", "draining", "off"] = "on"


class Addition(Members, frozen=True, kw_only=True):
    """A backend. ``url`` as in the settings; a member counts more than the same option in the url.

    ``ttl_s``: it announces itself, and says so again within that time for as long as it lives.
    """

    name: str
    url: Url
    kind: Kind
    ttl_s: Annotated[float, Meta(ge=5, le=3600)] | None = None


class Change(Members, frozen=True, kw_only=True):
    """What is to be otherwise; members that are not there stay as they are."""

    url: Url | None = None


_SAID: Final = ("url", *(name for name in Members.__struct_fields__ if name != "wanted"))


def backend_named(text: str) -> BackendId | None:
    """Accept what could be a backend's name; None for anything that never is one."""
    return BackendId(text) if _NAME.fullmatch(text) else None


def addition(raw: Raw, now: datetime) -> Backend:
    """Read the body of an addition or announcement; RejectedError names the member."""
    checked = check(Addition, raw)
    if backend_named(checked.name) is None:
        raise RejectedError(
            Code.OUT_OF_RANGE,
            "name is 1 to 63 of a to z, 0 to 9, _ and -, and begins with a letter or digit",
            member="name",
        )
    plain = Backend(name=BackendId(checked.name), url="", kind=checked.kind, source=Source.API)
    if checked.ttl_s is not None:
        if "wanted" in raw:
            raise RejectedError(
                Code.CONFLICTING_MEMBERS, "wanted and ttl_s exclude each other", member="wanted"
            )
        alive_until = now + timedelta(seconds=checked.ttl_s)
        plain = replace(plain, source=Source.ANNOUNCED, alive_until=alive_until)
    return _with(plain, checked, raw)


def added(known: Backend | None, new: Backend) -> Backend:
    """Decide on an addition; an instance that announced itself does so again, and keeps what is wanted."""
    if known is None or known.wanted is Wanted.GONE:
        return new
    if not (known.source is new.source is Source.ANNOUNCED):
        raise RejectedError(
            Code.BACKEND_EXISTS, f"there is a backend {new.name!r}; PATCH changes it", member="name"
        )
    renewed = merged(known, new)
    was_lapsed = known.alive_until is None and known.wanted is Wanted.DRAINING
    return replace(renewed, wanted=Wanted.ON) if was_lapsed else renewed


def changed(known: Backend, raw: Raw) -> Backend:
    """Decide on a change; RejectedError names the member."""
    made = _with(known, check(Change, raw), raw)
    if made.url != known.url:
        made = replace(made, learned_protocol=None)
    if known.source is Source.API:
        return made
    overridden = dict(known.overridden)
    for name in _SAID:
        before, after = _plain(known, name), _plain(made, name)
        if after == overridden.setdefault(name, before):
            del overridden[name]
    return replace(made, overridden=overridden)


def merged(known: Backend | None, said: Backend) -> Backend:
    """Say what the registry should hold once its configuration, or the instance, has spoken."""
    if known is None:
        return said
    kept = {name: then for name, then in known.overridden.items() if _plain(said, name) == then}
    made = replace(said, overridden=kept, **{name: getattr(known, name) for name in kept})
    same = (made.url, made.kind) == (known.url, known.kind)
    return replace(
        made,
        wanted=said.wanted if known.wanted is Wanted.GONE else known.wanted,
        learned_protocol=known.learned_protocol if same else None,
        learned_models=known.learned_models if made.kind is known.kind else (),
    )


def removed(known: Backend, *, running: int) -> None:
    """Decide on a removal; RejectedError while it is in use."""
    if known.wanted is Wanted.ON:
        reason = "is on"
    elif running:
        reason = f"still runs {running} task{'s'[: running != 1]}"
    else:
        return
    raise RejectedError(Code.BACKEND_IN_USE, f"{known.name!r} {reason}; drain it first, then remove it")


def lapsed(known: Backend, now: datetime, *, running: int) -> Backend | None:
    """Say what becomes of a backend once it has fallen silent, if it has; None: it is removed.

    One that is switched off stays so. ``alive_until`` null: it was not the operator who drained it.
    """
    silent = known.alive_until is None or known.alive_until <= now
    if known.source is not Source.ANNOUNCED or not silent or known.wanted is Wanted.OFF:
        return known
    if not running:
        return None
    return replace(known, wanted=Wanted.DRAINING, alive_until=None) if known.wanted is Wanted.ON else known


def _with(backend: Backend, checked: Addition | Change, raw: Raw) -> Backend:
    """Put what ``raw`` says, checked, into a backend."""
    members: dict[str, Any] = _of_url(checked.url, backend.kind) if checked.url else {}  # Any: of Backend
    members |= {name: getattr(checked, name) for name in raw if name in _SAID and name != "url"}
    if members.get("workflow") is not None:
        members["workflow"] = _workflow(members["workflow"])
    if "wanted" in raw:
        members["wanted"] = Wanted(checked.wanted)
    made = replace(backend, **members)
    if made.protocol and KIND_OF[made.protocol] is not made.kind:
        able = [protocol for protocol, kind in KIND_OF.items() if kind is made.kind]
        raise RejectedError(
            Code.OUT_OF_RANGE,
            f"protocol: {made.protocol} does not serve {made.kind}, which {', '.join(able)} do",
            member="protocol",
            allowed=able,
        )
    if made.workflow is not None and made.protocol not in (None, Protocol.COMFYUI):
        raise RejectedError(
            Code.CONFLICTING_MEMBERS,
            f"a workflow is for comfyui, not for {made.protocol}",
            member="workflow",
        )
    return made


def _of_url(url: str, kind: Kind) -> dict[str, Any]:  # Any: members of Backend
    """Give what a url as in the settings says, and no member that it leaves out."""
    read = from_url(BackendId("url"), url, kind)
    options = {name for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
    said = {"url", *options, *(("protocol",) if read.protocol else ())}
    return {name: getattr(read, name) for name in _SAID if name in said}


def _workflow(raw: Raw) -> workflow.Workflow:
    try:
        return workflow.read(msgspec.json.encode(raw))
    except RejectedError as error:
        raise RejectedError(error.code, f"workflow: {error.detail}", member="workflow") from None


def _plain(backend: Backend, name: str) -> Any:  # Any: JSON
    return msgspec.to_builtins(getattr(backend, name))
