"""Speech servers: one request with the recording in a form, whose answer is the transcript.

The one rule: the recording goes through as a stream; it is never held in memory whole.
"""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import aiohttp
from msgspec import Struct

from schemas.events import ErrorClass
from schemas.registry import Backend
from schemas.requests import SpeechRequest
from services.dispatcher.backends.base import Audio, Failed, Finished, Health, Job, failed
from services.dispatcher.backends.classify import OK, Broken, no_success, wrong_kind
from services.dispatcher.backends.http import Endpoint, Upload
from services.dispatcher.backends.oneshot import OneShotAdapter
from services.dispatcher.backends.transcripts import Transcript, finished

_MEDIA_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w.+,-]+)*", re.ASCII)
_QUOTED: Final = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A", "\0": "%00"})


class Asked(Struct, frozen=True, kw_only=True):
    """Where a recording is sent, and what goes with it; ``path`` with its query."""

    path: str
    fields: list[tuple[str, str]] = []
    file_field: str = "file"


class Dialect(Struct, frozen=True, kw_only=True):
    """What speech servers differ in. ``asked`` is given the request and the model, ``read`` the answer."""

    asked: Callable[[SpeechRequest, str | None], Asked]
    read: Callable[[bytes], Transcript | None]
    probe: Callable[[Endpoint, float], Awaitable[Health]]
    disconnect_cancels: bool = False


class SpeechAdapter(OneShotAdapter):
    """See the module."""

    def __init__(self, session: aiohttp.ClientSession, backend: Backend, dialect: Dialect) -> None:
        super().__init__(session, backend)
        self._dialect = dialect
        self._disconnect_cancels |= dialect.disconnect_cancels

    async def probe(self, timeout_s: float) -> Health:
        return await self._dialect.probe(self._endpoint, timeout_s)

    async def attempt(self, job: Job) -> Finished | Failed:
        request = job.request
        if not isinstance(request, SpeechRequest):
            return wrong_kind()
        if job.audio is None:
            return failed(ErrorClass.PERMANENT, "no_audio", "the task has no recording")
        source = _Source(job.audio)
        asked = self._dialect.asked(request, job.model)
        # Not guessable, or a recording could hold it and add fields of its own.
        upload = multipart(asked, job.audio, source.chunks(), secrets.token_hex(16))
        answer = await self._endpoint.upload(asked.path, upload)
        if source.failure is not None:
            return failed(ErrorClass.TRANSIENT, "audio_unreadable", source.failure)
        if isinstance(answer, Broken) or answer.status != OK:
            return no_success(answer)
        return finished(self._dialect.read(answer.body), request)


class _Source:
    """The recording as it is read; keeps apart that it cannot be read from that it cannot be sent."""

    def __init__(self, audio: Audio) -> None:
        self._audio = audio
        self.failure: str | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        sent = 0
        try:
            async for chunk in self._audio.open():
                sent += len(chunk)
                yield chunk
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"
            raise
        if sent != self._audio.size:
            self.failure = f"the recording has {sent} bytes, not {self._audio.size}"
            raise OSError(self.failure)


def multipart(asked: Asked, audio: Audio, chunks: AsyncIterator[bytes], boundary: str) -> Upload:
    """Lay the form around the recording; its length is known before the first byte is sent."""
    parts = [_field(boundary, name, value) for name, value in asked.fields]
    media_type = audio.media_type if _MEDIA_TYPE.fullmatch(audio.media_type) else "application/octet-stream"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{asked.file_field}"; '
        f'filename="{audio.filename.translate(_QUOTED)}"\r\nContent-Type: {media_type}\r\n\r\n'
    )
    prefix = ("".join(parts) + head).encode("utf-8", "replace")
    suffix = f"\r\n--{boundary}--\r\n".encode()

    async def stream() -> AsyncIterator[bytes]:
        yield prefix
        async for chunk in chunks:
            yield chunk
        yield suffix

    return Upload(
        chunks=stream(),
        size=len(prefix) + audio.size + len(suffix),
        content_type=f"multipart/form-data; boundary={boundary}",
    )


def _field(boundary: str, name: str, value: str) -> str:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
