"""Uploads that come in parts under an id that the client chose, each part behind the last.

The one rule: a chunk is stored only behind the one that its writer has seen last, so of two writers one
wins and nothing interleaves. Nothing of an upload is kept here: any api goes on with it.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from schemas import envelope
from schemas.errors import Code, RejectedError, UnavailableError
from schemas.ids import ArtifactId, UploadId, upload_artifact_id
from schemas.subjects import (
    UPLOAD_MARKS,
    object_chunk_subject,
    object_meta_subject,
    upload_mark_subject,
    upload_of_mark,
)
from services.api import audio, marks
from services.api.marks import MOVED_ON, Mark, Marks, Stage
from services.api.problems import ClientGoneError
from services.artifacts import CHUNK, ArtifactInfo, ArtifactStore, IncompleteError, described, kept_bytes
from services.bus.connection import ApiError, Bus
from services.bus.stored import Stored

log = structlog.get_logger()

_MIB: Final = 1024 * 1024
_OFFSET: Final = "Taskfold-Offset"
"""On a chunk: how many bytes the upload has with it."""
_LAST: Final = "Taskfold-Last"
"""On a chunk: none follows."""
_LOOKS_AT_MOST_EVERY_S: Final = 600.0


class Upload(Struct, frozen=True, kw_only=True):
    """``offset`` bytes are stored, ``last`` is the sequence of their last chunk, 0 for none.

    ``whole``: no byte is missing. ``info``: it is an artifact. ``gone``: it was one. ``touched_at``: when
    something of it was last stored.
    """

    upload_id: UploadId
    offset: int = 0
    last: int = 0
    whole: bool = False
    mark: Mark | None = None
    touched_at: datetime | None = None
    info: ArtifactInfo | None = None
    gone: bool = False

    @property
    def artifact_id(self) -> ArtifactId:
        return upload_artifact_id(self.upload_id)

    @property
    def begun(self) -> bool:
        """Whether it is there, complete or not."""
        return self.info is not None or (self.mark is not None and self.mark.stage is Stage.BEGUN)


class ResumableUploads:
    """``keep``: for how long uploads are kept; ``idle``: how long an unfinished one waits for more."""

    def __init__(
        self,
        bus: Bus,
        store: ArtifactStore,
        marked: Marks,
        now: Callable[[], datetime],
        *,
        max_mib: int,
        keep: timedelta | None,
        idle: timedelta,
    ) -> None:
        self._bus = bus
        self._store = store
        self._marks = marked
        self._now = now
        self._max_mib = max_mib
        self._keep = keep
        self._idle = idle

    async def look_up(self, upload_id: UploadId) -> Upload:
        """Read what there is of an upload; also of one that there is nothing of."""
        meta, chunk, mark = (
            object_meta_subject(upload_artifact_id(upload_id)),
            object_chunk_subject(upload_id),
            upload_mark_subject(upload_id),
        )
        found = await self._store.last(meta, chunk, mark)
        known = marks.decode(found[mark]) if mark in found else None
        if meta in found:
            info = described(found[meta].body)
            size = info.size if info else 0
            return Upload(upload_id=upload_id, offset=size, mark=known, info=info, gone=info is None)
        return _partial(Upload(upload_id=upload_id, mark=known), found.get(chunk))

    async def begin(self, upload: Upload) -> Upload:
        """Say that it is under way; RejectedError(wrong_offset) when another has done so meanwhile."""
        if upload.last:  # what one that was given up has left
            await self._store.purge(upload.upload_id)
        now = self._now()
        sequence = await self._mark(upload, Stage.BEGUN)
        if sequence is None:
            raise await self._moved_on(upload)
        return replace(upload, last=0, mark=Mark(Stage.BEGUN, now, sequence, now), touched_at=now)

    async def append(
        self, upload: Upload, content: AsyncIterator[bytes], *, announced: int, complete: bool
    ) -> Upload:
        """Store more bytes, ``announced`` of them as far as the client says; ``complete``: the last ones.

        RejectedError for what cannot be a recording, and wrong_offset when another was there first. Of a
        client that leaves in the middle is kept what has arrived.
        """
        self._check_size(upload, announced)
        buffer = bytearray()
        try:
            async for piece in content:
                buffer += piece
                while len(buffer) >= CHUNK:
                    upload = await self._store_chunk(upload, bytes(buffer[:CHUNK]))
                    del buffer[:CHUNK]
        except ClientGoneError:
            await self._store_chunk(upload, bytes(buffer))
            raise
        return await self._store_chunk(upload, bytes(buffer), last=complete)

    async def finish(self, upload: Upload, filename: str | None) -> ArtifactInfo:
        """Make an artifact of a whole upload, as often as it is asked for.

        RejectedError for what is no recording. The digest is that of the bytes as they are stored.
        """
        if upload.mark is None:
            raise TypeError("what is whole was begun")
        media_type, sha256 = await self._inspect(upload)
        info = replace(
            _bare(upload),
            sha256=sha256,
            media_type=media_type,
            filename=filename,
            chunks=await self._store.stored_chunks(upload.upload_id),
        )
        now = self._now()
        keep = None if self._keep is None else self._keep - (now - upload.mark.begun_at)
        await self._store.describe(info, now, keep)
        if await self._mark(upload, Stage.COMPLETE) is None:
            seen = await self.look_up(upload.upload_id)
            if seen.mark is None or seen.mark.stage not in (Stage.COMPLETE, Stage.USED):
                await self._store.delete(info, self._now())
                raise wrong_offset(0)
        return info

    async def remove(self, upload: Upload) -> bool:
        """Remove what there is of an upload; False when it is used, or has changed."""
        if upload.mark is None or upload.mark.stage is Stage.USED:
            return False
        if await self._mark(upload, Stage.GONE) is None:
            return False
        if upload.info is not None:
            await self._store.delete(upload.info, self._now())
        else:
            await self._store.purge(upload.upload_id)
        return True

    async def run(self) -> None:
        """Give up what nobody goes on with; runs until cancelled."""
        while True:
            await asyncio.sleep(min(self._idle.total_seconds(), _LOOKS_AT_MOST_EVERY_S))
            try:
                await self._give_up_idle()
            except (UnavailableError, ApiError) as error:
                log.warning("upload.left", error=str(error))

    def expires_at(self, upload: Upload, max_age: timedelta) -> datetime | None:
        """Say until when it is kept if nothing more is done; None where that is not known."""
        if upload.info is None:
            return upload.touched_at + self._idle if upload.touched_at else None
        return upload.mark.begun_at + (self._keep or max_age) if upload.mark else None

    async def _store_chunk(self, upload: Upload, data: bytes, *, last: bool = False) -> Upload:
        """Store a chunk behind the last one; an empty one only if it is the end."""
        if not data and not last:
            return upload
        self._check_size(upload, len(data))
        if upload.offset == 0 and len(data) >= audio.HEAD_BYTES:
            audio.media_type(data[: audio.HEAD_BYTES], whole=False)
        offset = upload.offset + len(data)
        headers = {
            envelope.EXPECTED_SEQUENCE: str(upload.last),
            _OFFSET: str(offset),
            **({_LAST: "true"} if last else {}),
            **kept_bytes(self._keep),
        }
        try:
            sequence = await self._bus.publish(object_chunk_subject(upload.upload_id), data, headers)
        except ApiError as error:
            if error.code not in MOVED_ON:
                raise
            raise await self._moved_on(upload) from None
        return replace(upload, offset=offset, last=sequence, whole=last, touched_at=self._now())

    async def _moved_on(self, upload: Upload) -> RejectedError:
        return wrong_offset((await self.look_up(upload.upload_id)).offset)

    def _check_size(self, upload: Upload, more: int) -> None:
        if upload.offset + more > self._max_mib * _MIB:
            raise RejectedError(Code.BODY_TOO_LARGE, f"a recording has at most {self._max_mib} MiB")

    async def _inspect(self, upload: Upload) -> tuple[str, str]:
        """Read what is stored, and give its media type and digest."""
        digest, head = hashlib.sha256(), b""
        try:
            async for piece in self._store.read(_bare(upload)):
                digest.update(piece)
                if len(head) < audio.HEAD_BYTES:
                    head += piece[: audio.HEAD_BYTES - len(head)]
        except IncompleteError:
            await self.remove(upload)
            raise await self._moved_on(upload) from None
        return audio.media_type(head, whole=upload.offset <= len(head)), digest.hexdigest()

    async def _mark(self, upload: Upload, stage: Stage) -> int | None:
        mark = upload.mark
        begun_at = self._now() if mark is None or stage is Stage.BEGUN else mark.begun_at
        return await self._marks.set(upload.upload_id, stage, begun_at, mark.sequence if mark else 0)

    async def _give_up_idle(self) -> None:
        """Look at the marks, the oldest first."""
        limit = self._now() - self._idle
        async for stored in self._store.under(UPLOAD_MARKS):
            if stored.at > limit:
                return
            if marks.decode(stored).stage is not Stage.BEGUN:
                continue
            upload = await self.look_up(upload_of_mark(stored.subject))
            if upload.info is not None:  # whoever finished it did not come to say so
                await self._mark(upload, Stage.COMPLETE)
            elif upload.touched_at and upload.touched_at <= limit and await self.remove(upload):
                log.info("upload.given_up", upload_id=upload.upload_id, bytes=upload.offset)


def wrong_offset(offset: int) -> RejectedError:
    return RejectedError(
        Code.WRONG_OFFSET,
        f"the upload goes on at byte {offset}",
        member="Upload-Offset",
        offset=offset,
    )


def _partial(upload: Upload, chunk: Stored | None) -> Upload:
    """Add what the last chunk says; of an upload that is not under way it is only a leftover."""
    mark = upload.mark
    if mark is None or mark.stage is not Stage.BEGUN:
        gone = mark is not None and mark.stage in (Stage.COMPLETE, Stage.USED)
        return replace(upload, last=chunk.sequence if chunk else 0, gone=gone)
    if chunk is None:
        return replace(upload, touched_at=mark.at)
    return replace(
        upload,
        offset=int(chunk.headers[_OFFSET]),
        last=chunk.sequence,
        whole=_LAST in chunk.headers,
        touched_at=chunk.at,
    )


def _bare(upload: Upload) -> ArtifactInfo:
    """Describe the bytes of an upload as far as is known before they are looked at."""
    return ArtifactInfo(
        artifact_id=upload.artifact_id,
        size=upload.offset,
        sha256="",
        media_type="",
        filename=None,
        nuid=upload.upload_id,
        chunks=0,
    )
