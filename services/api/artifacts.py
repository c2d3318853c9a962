"""Routes that give the bytes of results and uploads.

The one rule: an artifact never changes, so its digest is its ETag and a client may keep it for ever.
"""

import re
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from litestar import HttpMethod, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from schemas.errors import Code, RejectedError
from schemas.ids import TaskId, parse_artifact_id
from services.api import asking, names, openapi
from services.api.answer import READ, Answer, Ask, Headers, headers_of
from services.api.reads import Reads
from services.artifacts import ArtifactInfo, ArtifactStore, IncompleteError

_OF_TASK: Final = re.compile(r"([0-9a-f-]{36})-\d+-\d+")


class _Named(Struct, frozen=True):
    artifact_id: str


class _Artifacts(Struct, frozen=True):
    """What of a document says which artifacts it had."""

    artifacts: tuple[_Named, ...] = ()


_decode: Final = msgspec.json.Decoder(_Artifacts).decode


class ArtifactRoutes:
    def __init__(self, store: ArtifactStore, reads: Reads) -> None:
        self._store = store
        self._reads = reads

    def handlers(self) -> list[HTTPRouteHandler]:
        return [
            route("/api/images/{artifact:str}", http_method=READ, opt=openapi.ARTIFACT)(self.image),
            route("/api/artifacts/{artifact:str}", http_method=READ, opt=openapi.ARTIFACT)(self.any),
        ]

    async def image(self, request: Ask, artifact: FromPath[str]) -> ASGIApp:
        """Get a picture."""
        return await self._get(request, artifact)

    async def any(self, request: Ask, artifact: FromPath[str]) -> ASGIApp:
        """Get a result or an upload of any kind."""
        return await self._get(request, artifact)

    async def _get(self, request: Ask, name: str) -> ASGIApp:
        download = asking.parameters(request.scope["query_string"], "download").get("download")
        artifact_id = parse_artifact_id(name)
        info = await self._store.info(artifact_id) if artifact_id else None
        if info is None:
            raise await self._missing(name)
        headers = headers_of(request)
        etag = b'"%b"' % info.sha256.encode()
        described = _described(info, etag, download)
        if asking.matches(headers.get(b"if-none-match"), etag):
            return Answer(304, described)
        whole = request.method == HttpMethod.HEAD or headers.get(b"if-range", etag) != etag
        part = None if whole else asking.byte_range(headers.get(b"range"), info.size)
        start, stop = part or (0, info.size)
        if part:
            described.append((b"content-range", b"bytes %d-%d/%d" % (start, stop - 1, info.size)))
        described.append((b"content-length", b"%d" % (stop - start)))
        described.append((b"content-type", info.media_type.encode("latin-1", "replace")))
        content = self._store.read(info, start, stop)
        try:
            first = b"" if request.method == HttpMethod.HEAD else await anext(content, b"")
        except IncompleteError:
            raise expired(name) from None
        return Content(206 if part else 200, described, first, content)

    async def _missing(self, name: str) -> RejectedError:
        """Say whether an artifact was never there or is there no more."""
        match = _OF_TASK.fullmatch(name)
        if match:
            try:
                shown = await self._reads.get(TaskId(match[1]))
            except RejectedError:
                pass
            else:
                if any(named.artifact_id == name for named in _decode(shown.body).artifacts):
                    return expired(name)
        return RejectedError(Code.NO_SUCH_ARTIFACT, f"there is no artifact {name}")


class Content:
    """An answer whose body comes from the store as the client reads it."""

    __slots__ = ("_first", "_headers", "_rest", "_status")

    def __init__(self, status: int, headers: Headers, first: bytes, rest: AsyncIterator[bytes]) -> None:
        self._status = status
        self._headers = headers
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        if self._first:  # there is none for HEAD
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            try:
                async for piece in self._rest:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except IncompleteError:
                return  # the client misses what it was promised, and is cut off
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def expired(name: str) -> RejectedError:
    return RejectedError(Code.EXPIRED_ARTIFACT, f"artifact {name} was there and has been removed")


def _described(info: ArtifactInfo, etag: bytes, download: str | None) -> Headers:
    return [
        (b"etag", etag),
        (b"accept-ranges", b"bytes"),
        (b"cache-control", b"private, max-age=31536000, immutable"),
        (b"content-disposition", names.disposition(info, download)),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"sandbox"),
    ]
