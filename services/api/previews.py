"""The route that shows how a picture looks that is still being drawn.

The one rule: a preview is shown while its own attempt runs, and never after.
"""

from typing import Final

import msgspec
from litestar import route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp
from msgspec import Struct

from schemas.errors import Code, RejectedError
from schemas.ids import TaskId, parse_task_id
from schemas.task import Status
from schemas.views import API
from services.api import asking, openapi
from services.api.answer import NO_CACHE, READ, Answer, Ask, headers_of
from services.api.reads import Reads, Shown
from services.bus.previews import Preview, Previews


class _Attempt(Struct, frozen=True):
    attempt: int


class _Attempts(Struct, frozen=True):
    """What of a document says which attempt runs."""

    attempts: tuple[_Attempt, ...] = ()


_decode: Final = msgspec.json.Decoder(_Attempts).decode


class PreviewRoutes:
    def __init__(self, previews: Previews, reads: Reads) -> None:
        self._previews = previews
        self._reads = reads

    def handlers(self) -> list[HTTPRouteHandler]:
        path = f"{API}/tasks/{{task_id:str}}/preview"
        return [route(path, http_method=READ, opt=openapi.PREVIEW)(self.preview)]

    async def preview(self, request: Ask, task_id: FromPath[str]) -> ASGIApp:
        """Show how the picture of a running task looks so far."""
        asking.parameters(request.scope["query_string"], "v")
        found = await self._latest(parse_task_id(task_id))
        etag = b'"%d"' % found.sequence
        headers = [(b"etag", etag), NO_CACHE, (b"x-content-type-options", b"nosniff")]
        if asking.matches(headers_of(request).get(b"if-none-match"), etag):
            return Answer(304, headers)
        return Answer(200, [*headers, (b"content-type", found.media_type.encode())], found.image)

    async def _latest(self, task_id: TaskId) -> Preview:
        attempt = _running(await self._reads.get(task_id))
        found = await self._previews.get(task_id) if attempt is not None else None
        if found is None or found.attempt != attempt:
            raise RejectedError(
                Code.NO_PREVIEW, "there is no preview of a running attempt", task_id=task_id
            )
        return found


def _running(shown: Shown) -> int | None:
    """Give the number of the attempt that runs."""
    attempts = _decode(shown.body).attempts if shown.status == Status.RUNNING else ()
    return attempts[-1].attempt if attempts else None
