"""Routes that stop and start queues.

The one rule: both are safe twice; a pause that stands is not begun anew.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final, TypeVar

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp
from msgspec import Meta, Struct

from schemas import control, intake
from schemas.checking import check
from schemas.control import Pause
from schemas.errors import Code, OutcomeUnknownError, RejectedError
from schemas.ids import slug
from schemas.requests import Kind, Name
from schemas.subjects import CONTROL
from schemas.views import API
from services.api import asking, openapi, shown_fleet
from services.api.answer import JSON, Answer, Ask, encode
from services.api.known_fleet import KnownFleet
from services.api.known_models import first_state
from services.api.tasks import BY_CLIENT
from services.bus.buckets import Bucket
from services.bus.connection import Bus

_ATTEMPTS: Final = 10


class ResumeBody(Struct, frozen=True, kw_only=True):
    """``model`` null: the whole kind; ``any``: what names no model."""

    model: Name | None = None


class PauseBody(ResumeBody, frozen=True, kw_only=True):
    reason: Annotated[str, Meta(max_length=1000)] | None = None


B = TypeVar("B", PauseBody, ResumeBody)


class PauseRoutes:
    def __init__(self, bus: Bus, fleet: KnownFleet, now: Callable[[], datetime]) -> None:
        self._bucket = Bucket(bus, CONTROL)
        self._fleet = fleet
        self._now = now

    def handlers(self) -> list[HTTPRouteHandler]:
        one = f"{API}/queues/{{kind:str}}"
        return [
            post(f"{one}/pause", status_code=200, opt=openapi.PAUSE)(self.pause),
            post(f"{one}/resume", status_code=200, opt=openapi.RESUME)(self.resume),
        ]

    async def pause(self, request: Ask, kind: FromPath[str]) -> ASGIApp:
        """Start no task of a kind, or of one queue of it, until it is resumed."""
        body, checked = await _body(request, PauseBody), _kind(kind)
        new = Pause(at=self._now(), by=BY_CLIENT, reason=body.reason)
        return await self._write(checked, body.model, new)

    async def resume(self, request: Ask, kind: FromPath[str]) -> ASGIApp:
        """Take back a pause of a kind, or of one queue of it."""
        body, checked = await _body(request, ResumeBody), _kind(kind)
        return await self._write(checked, body.model, None)

    async def _write(self, kind: Kind, model: str | None, new: Pause | None) -> ASGIApp:
        key = control.pause_key(kind, None if model is None else slug(model))
        await first_state(self._fleet.known)
        for _ in range(_ATTEMPTS):
            entry = await self._bucket.get(key)
            if _stands(entry.value, new):
                revision: int | None = entry.revision
            elif new is None:
                revision = await self._bucket.delete(key, entry.revision)
            else:
                revision = await self._bucket.replace(key, control.encode(new), entry.revision)
            if revision is not None:
                await self._fleet.reached(revision)
                return Answer(200, [JSON], encode(shown_fleet.pauses(kind, self._fleet.pauses)))
        raise OutcomeUnknownError(f"{key} changes faster than it can be changed")


def _stands(value: bytes | None, new: Pause | None) -> bool:
    """Say whether what is there is what is asked for."""
    if value is None or new is None:
        return value is None and new is None
    try:
        there = control.decode(value)
    except msgspec.MsgspecError:
        return False
    return new.reason in (None, there.reason)


def _kind(text: str) -> Kind:
    if text not in list(Kind):
        raise RejectedError(
            Code.UNKNOWN_KIND, f"kind is one of {', '.join(Kind)}", member="kind", allowed=list(Kind)
        )
    return Kind(text)


async def _body(request: Ask, form: type[B]) -> B:
    asking.parameters(request.scope["query_string"])
    content = await request.body()
    return check(form, intake.read_json(content)) if content else form()
