"""The artifact store: results and uploads, streamed in and out of the object store ARTIFACTS (ADR-20).

The one rule: an object is named only once all of its bytes are stored. Written against the wire rather than
with the client's own object store, which reads whole objects into memory and at a fortieth of the speed.
"""

import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from schemas import envelope
from schemas.errors import TaskfoldError
from schemas.ids import ArtifactId
from schemas.subjects import ARTIFACTS, object_chunk_subject, object_meta_subject
from services.bus.connection import Bus

CHUNK: Final = 128 * 1024
_WINDOW: Final = 8
_STREAM: Final = f"OBJ_{ARTIFACTS}"
_CONTENT_TYPE: Final = "content-type"
_FILENAME: Final = "filename"


class TooLargeError(TaskfoldError):
    """More bytes came than the caller allows; nothing is kept."""


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
        limit: int | None = None,
    ) -> ArtifactInfo:
        """Store a stream of bytes under a name.

        TooLargeError past ``limit`` bytes; on any failure nothing stays.
        """
        try:
            size, sha256, chunks = await self._write(nuid, content, limit)
            info = ArtifactInfo(
                artifact_id=artifact_id,
                size=size,
                sha256=sha256,
                media_type=media_type,
                filename=filename,
                nuid=nuid,
                chunks=chunks,
            )
            meta = msgspec.json.encode(_to_meta(info, now))
            await self._bus.publish(object_meta_subject(artifact_id), meta, {"Nats-Rollup": "sub"})
        except BaseException:
            with contextlib.suppress(TaskfoldError):
                # An answer, so that no chunk that is still on its way is stored behind the purge.
                await self._bus.publish(object_chunk_subject(nuid), b"", {})
            with contextlib.suppress(TaskfoldError):
                await self._purge(nuid)
            raise
        return info

    async def _write(
        self, nuid: str, content: AsyncIterator[bytes], limit: int | None
    ) -> tuple[int, str, int]:
        """Store the chunks; their total size, digest and number."""
        digest, size, chunks = hashlib.sha256(), 0, 0
        subject = object_chunk_subject(nuid)
        async for chunk in _rechunked(content):
            size += len(chunk)
            if limit is not None and size > limit:
                raise TooLargeError(f"more than {limit} bytes")
            digest.update(chunk)
            chunks += 1
            # Answers are awaited for the last chunk, and now and then, so that the server is not overrun.
            # The others are stored without; that all of them were is what the count says.
            if len(chunk) < CHUNK or chunks % _WINDOW == 0:
                await self._bus.publish(subject, chunk, {})
            else:
                await self._bus.send(subject, chunk)
        if chunks > 1 and await self._stored_chunks(nuid) != chunks:
            raise IncompleteError(f"{nuid}: not all chunks were stored")
        return size, digest.hexdigest(), chunks

    async def info(self, artifact_id: ArtifactId) -> ArtifactInfo | None:
        """Describe an object; None for one that is not there, or no more."""
        request = msgspec.json.encode({"multi_last": [object_meta_subject(artifact_id)]})
        messages = await self._bus.gather(f"$JS.API.DIRECT.GET.{_STREAM}", request)
        return _from_meta(messages[0].data) if messages else None

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
        await self._bus.publish(subject, msgspec.json.encode(gone), {"Nats-Rollup": "sub"})
        await self._purge(info.nuid)

    async def _stored_chunks(self, nuid: str) -> int:
        subject = object_chunk_subject(nuid)
        info = await self._bus.api(f"STREAM.INFO.{_STREAM}", {"subjects_filter": subject})
        return int((info["state"].get("subjects") or {}).get(subject, 0))

    async def _purge(self, nuid: str) -> None:
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


def _from_meta(body: bytes) -> ArtifactInfo | None:
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
