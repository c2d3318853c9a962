"""A form with a recording: read piece by piece, the file straight into the artifact store.

The one rule: whatever is refused leaves no object behind.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import structlog
from litestar.exceptions import InternalServerException
from msgspec import Struct
from multipart import (  # type: ignore[import-untyped]  # the library has no types
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from schemas.errors import Code, DisconnectedError, RejectedError, TaskfoldError
from schemas.ids import ArtifactId
from services.api import audio, names
from services.api.answer import Ask
from services.api.problems import ClientGoneError
from services.artifacts import ArtifactInfo, ArtifactStore, IncompleteError

log = structlog.get_logger()

FILE: Final = "file"
MAX_FIELD: Final = 64 * 1024
MAX_FIELDS: Final = 256 * 1024
MAX_PARTS: Final = 64
SLACK: Final = 1024 * 1024
"""What a form may have beside its file: fields, headers, boundaries."""

Events = AsyncGenerator[MultipartSegment | bytes | bytearray | None, None]


class Form(Struct):
    """``fields`` as text, in the order in which they came; ``upload`` is stored already."""

    fields: dict[str, str]
    upload: ArtifactInfo | None = None


class Uploads:
    """Takes recordings in, to be kept so long. ``new_name`` gives 32 hex digits that nobody can guess."""

    def __init__(
        self,
        store: ArtifactStore,
        now: Callable[[], datetime],
        new_name: Callable[[], str],
        max_mib: int,
        keep: timedelta | None,
    ) -> None:
        self._store = store
        self._now = now
        self._new_name = new_name
        self._max_mib = max_mib
        self._lifetime = keep

    async def read(self, content: AsyncIterator[bytes], content_type: bytes) -> Form:
        """Read a whole form; RejectedError for one that is wrong, and then nothing stays."""
        form = Form({})
        try:
            async with contextlib.aclosing(_events(content, _boundary(content_type))) as events:
                await self._fill(form, events)
        except BaseException as error:
            await self.discard(form.upload)
            if isinstance(error, MultipartError):
                raise RejectedError(Code.MALFORMED, f"the form cannot be read: {error}") from error
            raise
        return form

    async def discard(self, upload: ArtifactInfo | None) -> None:
        """Remove an object that nobody needs; what cannot be removed now ages out."""
        if upload is None:
            return
        try:
            await self._store.delete(upload, self._now())
        except TaskfoldError as error:
            log.warning("upload.left", artifact_id=upload.artifact_id, error=str(error))

    async def _fill(self, form: Form, events: Events) -> None:
        room = MAX_FIELDS
        async for event in events:
            if not isinstance(event, MultipartSegment):
                raise TypeError("a part begins with its headers")
            name = event.name or ""
            if name == FILE:
                if form.upload is not None:
                    raise RejectedError(
                        Code.CONFLICTING_MEMBERS, "there is more than one file", member=FILE
                    )
                form.upload = await self._keep(event, _body(events))
                continue
            if name in form.fields:
                raise RejectedError(Code.CONFLICTING_MEMBERS, f"{name} is given twice", member=name)
            form.fields[name] = await _text(name, _body(events), min(MAX_FIELD, room))
            room -= len(form.fields[name])

    async def _keep(self, part: MultipartSegment, content: AsyncIterator[bytes]) -> ArtifactInfo:
        head, whole = await _head(content)
        kind = audio.media_type(head, whole=whole)
        try:
            return await self._store.put(
                ArtifactId(f"upload-{self._new_name()}"),
                _limited(_joined(head, content), self._max_mib),
                nuid=self._new_name(),
                now=self._now(),
                media_type=kind,
                filename=names.filename(part.filename),
                keep=self._lifetime,
            )
        except IncompleteError as error:
            raise DisconnectedError(str(error)) from error


async def content_of(request: Ask) -> AsyncIterator[bytes]:
    """Give the body as it arrives; ClientGoneError when it stops arriving."""
    try:
        async for chunk in request.stream():
            yield chunk
    except InternalServerException:
        raise ClientGoneError("left before its body was complete") from None


def members(fields: dict[str, str]) -> dict[str, Any]:
    """Turn the fields of a form into members: tags and metadata have forms of their own."""  # Any: JSON
    found: dict[str, Any] = dict(fields)
    if "tags" in fields:
        text = fields["tags"].strip()
        found["tags"] = _json("tags", text) if text.startswith("[") else _split(text)
    if "metadata" in fields:
        found["metadata"] = _json("metadata", fields["metadata"])
    return found


def _json(member: str, text: str) -> Any:  # Any: JSON
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise RejectedError(Code.WRONG_TYPE, f"{member} is JSON: {error}", member=member) from error


def _split(text: str) -> list[str]:
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def _boundary(content_type: bytes) -> str:
    _, options = parse_options_header(content_type.decode("latin-1"))
    boundary: str = options.get("boundary", "")
    if not boundary:
        raise RejectedError(Code.MALFORMED, "the form's Content-Type has no boundary")
    return boundary


async def _events(content: AsyncIterator[bytes], boundary: str) -> Events:
    """Give the parser's events: the headers of a part, its bytes, None at its end."""
    parser = PushMultipartParser(boundary, max_segment_count=MAX_PARTS)
    async for chunk in content:
        if chunk:
            for event in parser.parse(chunk):
                yield event
    parser.close()  # raises where the form is not complete


async def _body(events: Events) -> AsyncIterator[bytes]:
    async for event in events:
        if event is None:
            return
        if isinstance(event, MultipartSegment):
            raise TypeError("a part ends before the next begins")
        yield bytes(event)


async def _text(name: str, content: AsyncIterator[bytes], limit: int) -> str:
    text = bytearray()
    async for piece in content:
        text += piece
        if len(text) > limit:
            raise RejectedError(
                Code.BODY_TOO_LARGE,
                f"a field has at most {MAX_FIELD} bytes, all together {MAX_FIELDS}",
                member=name,
            )
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise RejectedError(Code.MALFORMED, f"{name} is not UTF-8", member=name) from None


async def _head(content: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """Read the beginning, and say whether that was all."""
    head = bytearray()
    async for piece in content:
        head += piece
        if len(head) >= audio.HEAD_BYTES:
            return bytes(head), False
    return bytes(head), True


async def _joined(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for piece in rest:
        yield piece


async def _limited(content: AsyncIterator[bytes], max_mib: int) -> AsyncIterator[bytes]:
    left = max_mib * 1024 * 1024
    async for piece in content:
        left -= len(piece)
        if left < 0:
            raise RejectedError(Code.BODY_TOO_LARGE, f"a recording has at most {max_mib} MiB", member=FILE)
        yield piece
