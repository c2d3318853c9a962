"""Routes that act on many tasks at once.

The one rule: which tasks are meant is said by a filter, the same as in a list, and never by leaving it out.
"""

from typing import Final

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from schemas import filters, intake, replay
from schemas.checking import Raw, check
from schemas.errors import Code, RejectedError
from schemas.views import API
from services.api import asking, openapi
from services.api.answer import JSON, Answer, Ask, encode
from services.api.cancelling_many import ManyCanceller
from services.api.redriving import Redriver
from services.api.tasks import BY_CLIENT, CancelBody

_REASON: Final = "reason"
_CHANGE: Final = "change"


class ActionRoutes:
    def __init__(self, canceller: ManyCanceller, redriver: Redriver) -> None:
        self._canceller = canceller
        self._redriver = redriver

    def handlers(self) -> list[HTTPRouteHandler]:
        return [
            post(f"{API}/tasks/cancel", status_code=200, opt=openapi.CANCEL_MANY)(self.cancel),
            post(f"{API}/tasks/redrive", status_code=200, opt=openapi.REDRIVE)(self.redrive),
        ]

    async def cancel(self, request: Ask) -> ASGIApp:
        """Cancel all tasks that a filter means."""
        raw = await _body(request)
        chosen = filters.parse_body(raw, filters.UNFINISHED, (_REASON,))
        said = {_REASON: raw[_REASON]} if _REASON in raw else {}
        reason = check(CancelBody, said).reason
        return Answer(200, [JSON], encode(await self._canceller.cancel(chosen, BY_CLIENT, reason)))

    async def redrive(self, request: Ask) -> ASGIApp:
        """Submit again what has failed, all that a filter means."""
        raw = await _body(request)
        chosen = filters.parse_body(raw, filters.DEAD, (_CHANGE,))
        change = raw.get(_CHANGE, {})
        if not isinstance(change, dict):
            raise RejectedError(Code.WRONG_TYPE, "change is an object", member=_CHANGE)
        return Answer(200, [JSON], encode(await self._redriver.redrive(chosen, replay.changes(change))))


async def _body(request: Ask) -> Raw:
    asking.parameters(request.scope["query_string"])
    content = await request.body()
    return intake.read_json(content) if content else {}
