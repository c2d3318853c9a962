"""The artifact store: results and uploads, streamed in and out of the object store ARTIFACTS (ADR-20).

The one rule: an object is named only once all of its bytes are stored. Written against the wire rather than
with the client's own object store, which reads whole objects into memory and at a fortieth of the speed.
"""

import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import Struct

from schemas import envelope
from schemas.errors import TaskfoldError
from schemas.ids import ArtifactId
from schemas.subjects import ARTIFACTS, object_chunk_subject, object_meta_subject
from services.bus.connection import Bus
from services.bus.stored import Stored, from_direct_get

CHUNK: Final = 128 * 1024
_WINDOW: Final = 8
_STREAM: Final = f"OBJ_{ARTIFACTS}"
_ROLLUP: Final = {"Nats-Rollup": "sub"}
_CONTENT_TYPE: Final = "content-type"
_FILENAME: Final = "filename"
_LINGER: Final = timedelta(minutes=1)
_ENDINGS: Final = {
    "audio/wav": (".wav",),
    "audio/flac": (".flac",),
    "audio/ogg": (".ogg", ".oga", ".opus"),
    "audio/webm": (".webm",),
    "audio/mp4": (".m4a", ".mp4"),
    "audio/mpeg": (".mp3",),
    "image/png": (".png",),
    "image/jpeg": (".jpg", ".jpeg"),
    "image/webp": (".webp",),
    "application/json": (".json",),
    "application/x-subrip": (".srt",),
    "text/plain": (".txt",),
    "text/vtt": (".vtt",),
}


class IncompleteError(TaskfoldError):
    """An object's bytes are gone or not the ones that were stored."""


class ArtifactInfo(Struct, frozen=True, kw_only=True):
    """``size`` in bytes, ``sha256`` in hex, ``nuid`` the name of its chunks."""

    artifact_id: ArtifactId
    size: int
    sha256: str
    media_type: str
    filename: str | None
    nuid: str
    chunks: int


class ArtifactStore:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def put(
        self,
        artifact_id: ArtifactId,
        content: AsyncIterator[bytes],
        *,
        nuid: str,
        now: datetime,
        media_type: str,
        filename: str | None = None,
        keep: timedelta | None = None,
    ) -> ArtifactInfo:
        """Store a stream of bytes under a name, for as long as ``keep`` says; none: as long as can be.

        On any failure, of ``content`` too, nothing stays.
        """
        try:
            size, sha256, chunks = await self._write(nuid, content, kept_bytes(keep))
            info = ArtifactInfo(
                artifact_id=artifact_id,
                size=size,
                sha256=sha256,
                media_type=media_type,
                filename=filename,
                nuid=nuid,
                chunks=chunks,
            )
            await self.describe(info, now, keep)
        except BaseException:
            with contextlib.suppress(TaskfoldError):
                # An answer, so that no chunk that is still on its way is stored behind the purge.
                await self._bus.publish(object_chunk_subject(nuid), b"", {})
            with contextlib.suppress(TaskfoldError):
                await self.purge(nuid)
            raise
        return info

    async def describe(self, info: ArtifactInfo, now: datetime, keep: timedelta | None) -> None:
        """Give stored bytes their name."""
        meta = msgspec.json.encode(_to_meta(info, now))
        headers = {**_ROLLUP, **envelope.kept(keep)}
        await self._bus.publish(object_meta_subject(info.artifact_id), meta, headers)

    async def _write(
        self, nuid: str, content: AsyncIterator[bytes], headers: dict[str, str]
    ) -> tuple[int, str, int]:
        """Store the chunks; their total size, digest and number."""
        digest, size, chunks = hashlib.sha256(), 0, 0
        subject = object_chunk_subject(nuid)
        async for chunk in _rechunked(content):
            size += len(chunk)
            digest.update(chunk)
            chunks += 1
            # Answers are awaited for the last chunk, and now and then, so that the server is not overrun.
            # The others are stored without; that all of them were is what the count says.
            if len(chunk) < CHUNK or chunks % _WINDOW == 0:
                await self._bus.publish(subject, chunk, headers)
            else:
                await self._bus.send(subject, chunk, headers)
        if chunks > 1 and await self.stored_chunks(nuid) != chunks:
            raise IncompleteError(f"{nuid}: not all chunks were stored")
        return size, digest.hexdigest(), chunks

    async def info(self, artifact_id: ArtifactId) -> ArtifactInfo | None:
        """Describe an object; None for one that is not there, or no more."""
        subject = object_meta_subject(artifact_id)
        found = await self.last(subject)
        return described(found[subject].body) if found else None

    async def last(self, *subjects: str) -> dict[str, Stored]:
        """Give the last message of each of these subjects, where there is one."""
        request = msgspec.json.encode({"multi_last": subjects})
        messages = await self._bus.gather(f"$JS.API.DIRECT.GET.{_STREAM}", request)
        return {stored.subject: stored for stored in map(from_direct_get, messages)}

    async def under(self, subject: str, page: int = 256) -> AsyncIterator[Stored]:
        """Give every message under a wildcard, in the order in which they came."""
        sequence = 1
        while True:
            request = {"seq": sequence, "next_by_subj": subject, "batch": page}
            messages = await self._bus.gather(f"$JS.API.DIRECT.GET.{_STREAM}", msgspec.json.encode(request))
            for stored in map(from_direct_get, messages):
                yield stored
                sequence = stored.sequence + 1
            if len(messages) < page:
                return

    async def read(
        self, info: ArtifactInfo, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Stream bytes ``start`` up to ``stop``; IncompleteError when they are gone."""
        end = info.size if stop is None else stop
        position, sequence = 0, 1
        while position < end:
            request = {
                "seq": sequence,
                "next_by_subj": object_chunk_subject(info.nuid),
                "batch": 2 * _WINDOW,
                "max_bytes": 4 * _WINDOW * CHUNK,
            }
            body = msgspec.json.encode(request)
            messages = await self._bus.gather(f"$JS.API.DIRECT.GET.{_STREAM}", body, timeout_s=5.0)
            if not messages:
                raise IncompleteError(f"{info.artifact_id}: bytes from {position} on are gone")
            for message in messages:
                data = message.data[max(0, start - position) : max(0, end - position)]
                position += len(message.data)
                if data:
                    yield data
            sequence = int((messages[-1].headers or {})["Nats-Sequence"]) + 1

    async def delete(self, info: ArtifactInfo, now: datetime) -> None:
        """Remove the bytes and leave the mark that says so."""
        gone = {**_to_meta(info, now), "deleted": True, "size": 0, "chunks": 0, "digest": ""}
        subject = object_meta_subject(info.artifact_id)
        await self._bus.publish(subject, msgspec.json.encode(gone), _ROLLUP)
        await self.purge(info.nuid)

    async def stored_chunks(self, nuid: str) -> int:
        subject = object_chunk_subject(nuid)
        info = await self._bus.api(f"STREAM.INFO.{_STREAM}", {"subjects_filter": subject})
        return int((info["state"].get("subjects") or {}).get(subject, 0))

    async def purge(self, nuid: str) -> None:
        await self._bus.api(f"STREAM.PURGE.{_STREAM}", {"filter": object_chunk_subject(nuid)})


async def _rechunked(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut a stream into chunks of one size; the last one is shorter, if need be empty."""
    buffer = bytearray()
    async for piece in content:
        buffer += piece
        while len(buffer) >= CHUNK:
            yield bytes(buffer[:CHUNK])
            del buffer[:CHUNK]
    yield bytes(buffer)


def _to_meta(info: ArtifactInfo, now: datetime) -> dict[str, Any]:
    """Spell ADR-20's description. Header values are lists, or Go clients cannot list the bucket."""
    headers = {_CONTENT_TYPE: [info.media_type]}
    if info.filename:
        headers[_FILENAME] = [info.filename]
    digest = base64.urlsafe_b64encode(bytes.fromhex(info.sha256)).decode()
    return {
        "name": info.artifact_id,
        "bucket": ARTIFACTS,
        "nuid": info.nuid,
        "size": info.size,
        "chunks": info.chunks,
        "digest": f"SHA-256={digest}",
        "mtime": envelope.timestamp(now),
        "headers": headers,
        "options": {"max_chunk_size": CHUNK},
    }


def described(body: bytes) -> ArtifactInfo | None:
    """Read an object's description; None for one that says that it was removed."""
    meta: dict[str, Any] = msgspec.json.decode(body)
    if meta.get("deleted"):
        return None
    headers = meta.get("headers") or {}
    digest = base64.urlsafe_b64decode(meta["digest"].removeprefix("SHA-256="))
    return ArtifactInfo(
        artifact_id=ArtifactId(meta["name"]),
        size=meta["size"],
        sha256=digest.hex(),
        media_type=headers.get(_CONTENT_TYPE, ["application/octet-stream"])[0],
        filename=headers.get(_FILENAME, [None])[0],
        nuid=meta["nuid"],
        chunks=meta["chunks"],
    )


def kept_bytes(keep: timedelta | None) -> dict[str, str]:
    """Build the header of chunks, which outlive the name: a read that has begun comes to its end."""
    return envelope.kept(None if keep is None else keep + _LINGER)


def endings(media_type: str) -> tuple[str, ...]:
    """Give how files of a media type usually end, the most usual first; empty for a type not known."""
    return _ENDINGS.get(media_type.split(";", maxsplit=1)[0], ())
