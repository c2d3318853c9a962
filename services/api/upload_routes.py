"""Routes by which a recording is brought in before any task names it, in one go or in several.

The one rule: every answer says how far the upload is, so a client that was cut off knows where to go on.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from litestar import HttpMethod, delete, put, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp
from msgspec.structs import replace

from schemas import envelope
from schemas.errors import Code, RejectedError
from schemas.ids import parse_upload_id
from schemas.views import API
from services.api import asking, names, openapi
from services.api.answer import JSON, NO_CACHE, READ, Answer, Ask, encode, headers_of
from services.api.artifacts import expired
from services.api.resumable import ResumableUploads, Upload, wrong_offset
from services.api.uploaded import UploadView
from services.api.uploads import content_of

_PATH: Final = f"{API}/uploads/{{upload_id:str}}"


class UploadRoutes:
    """``ready`` refuses what could not be stored anyway; ``max_age`` is how long anything is kept."""

    def __init__(self, uploads: ResumableUploads, ready: Callable[[], None], max_age: timedelta) -> None:
        self._uploads = uploads
        self._ready = ready
        self._max_age = max_age

    def handlers(self) -> list[HTTPRouteHandler]:
        return [
            route(_PATH, http_method=READ, opt=openapi.UPLOAD)(self.get),
            put(_PATH, opt=openapi.PUT_UPLOAD, request_max_body_size=None)(self.put),
            # 200 is for Litestar alone, which lets no handler of 204 return anything
            delete(_PATH, status_code=200, opt=openapi.DELETE_UPLOAD)(self.delete),
        ]

    async def get(self, request: Ask, upload_id: FromPath[str]) -> ASGIApp:
        """Ask how far an upload is."""
        asking.parameters(request.scope["query_string"])
        upload = await self._uploads.look_up(parse_upload_id(upload_id))
        if not upload.begun:
            raise _missing(upload)
        return self._answer(upload, 200, body=request.method != HttpMethod.HEAD)

    async def put(self, request: Ask, upload_id: FromPath[str]) -> ASGIApp:
        """Bring a recording in, or go on with it."""
        checked = parse_upload_id(upload_id)
        filename = names.filename(
            asking.parameters(request.scope["query_string"], "filename").get("filename")
        )
        headers = headers_of(request)
        offset = asking.upload_offset(headers.get(b"upload-offset"))
        complete = asking.upload_complete(headers.get(b"upload-complete"))
        self._ready()
        upload = await self._uploads.look_up(checked)
        if upload.gone:
            raise expired(upload.artifact_id)
        if upload.info is not None or upload.whole:
            await _same_end(upload, offset, request)
        elif offset != upload.offset:
            raise wrong_offset(upload.offset)
        if upload.info is not None:
            return self._answer(upload, 200)
        return await self._take(request, upload, filename, complete=complete)

    async def delete(self, request: Ask, upload_id: FromPath[str]) -> ASGIApp:
        """Give up an upload, unless a task has named it."""
        asking.parameters(request.scope["query_string"])
        checked = parse_upload_id(upload_id)
        while True:
            upload = await self._uploads.look_up(checked)
            if not upload.begun:
                raise _missing(upload)
            if await self._uploads.remove(upload):
                return Answer(204, [])
            if upload == await self._uploads.look_up(checked):
                raise RejectedError(Code.UPLOAD_IN_USE, f"a task has named {upload.artifact_id}")

    async def _take(self, request: Ask, upload: Upload, filename: str | None, *, complete: bool) -> ASGIApp:
        """Store what comes; what is refused leaves nothing of the upload."""
        announced = headers_of(request).get(b"content-length", b"0")
        try:
            if not upload.begun:
                upload = await self._uploads.begin(upload)
            if not upload.whole:
                upload = await self._uploads.append(
                    upload, content_of(request), announced=int(announced), complete=complete
                )
            if upload.whole:
                upload = replace(upload, info=await self._uploads.finish(upload, filename))
        except RejectedError as error:
            if error.code is not Code.WRONG_OFFSET:
                await self._uploads.remove(upload)
            raise
        return self._answer(upload, 201 if upload.info else 200)

    def _answer(self, upload: Upload, status: int, *, body: bool = True) -> Answer:
        view = self._view(upload)
        headers = [
            JSON,
            NO_CACHE,
            (b"upload-offset", b"%d" % upload.offset),
            (b"upload-complete", b"?1" if upload.info else b"?0"),
        ]
        if view.url:
            headers.append((b"location", view.url.encode()))
        return Answer(status, headers, encode(view) if body else b"")

    def _view(self, upload: Upload) -> UploadView:
        info = upload.info
        expires_at = self._uploads.expires_at(upload, self._max_age)
        return UploadView(
            upload_id=upload.upload_id,
            offset=upload.offset,
            complete=info is not None,
            artifact_id=upload.artifact_id if info else None,
            url=f"/api/artifacts/{upload.artifact_id}" if info else None,
            media_type=info.media_type if info else None,
            sha256=info.sha256 if info else None,
            filename=info.filename if info else None,
            expires_at=envelope.timestamp(expires_at) if expires_at else None,
        )


def _missing(upload: Upload) -> RejectedError:
    if upload.gone:
        return expired(upload.artifact_id)
    return RejectedError(Code.UNKNOWN_UPLOAD, f"there is no upload {upload.upload_id}")


async def _same_end(upload: Upload, offset: int, request: Ask) -> None:
    """Read what comes though every byte is there; wrong_offset unless it ends where the upload does."""
    async for piece in content_of(request):
        offset += len(piece)
        if offset > upload.offset:
            break
    if offset != upload.offset:
        raise wrong_offset(upload.offset)
