"""Servers with OpenAI's transcription: speaches, faster-whisper servers, vLLM, LocalAI, whisper.cpp.

The one rule: the recording goes through as a stream; it is never held in memory whole.
"""

import re
import secrets
from collections.abc import AsyncIterator
from typing import Final

from schemas.events import ErrorClass
from schemas.requests import SpeechRequest
from services.dispatcher.backends import transcripts
from services.dispatcher.backends.base import Audio, Failed, Finished, Job, failed
from services.dispatcher.backends.classify import OK, Broken, no_success, wrong_kind
from services.dispatcher.backends.http import Upload
from services.dispatcher.backends.oneshot import OneShotAdapter

TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
TRANSLATIONS: Final = "/v1/audio/translations"

_MEDIA_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w.+,-]+)*", re.ASCII)
_QUOTED: Final = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A", "\0": "%00"})


class OpenaiSttAdapter(OneShotAdapter):
    """See the module."""

    async def attempt(self, job: Job) -> Finished | Failed:
        request = job.request
        if not isinstance(request, SpeechRequest):
            return wrong_kind()
        if job.audio is None:
            return failed(ErrorClass.PERMANENT, "no_audio", "the task has no recording")
        source = _Source(job.audio)
        # Not guessable, or a recording could hold it and add fields of its own.
        upload = multipart(request, job.model, job.audio, source.chunks(), secrets.token_hex(16))
        answer = await self._endpoint.upload(TRANSLATIONS if request.translate else TRANSCRIPTIONS, upload)
        if source.failure is not None:
            return failed(ErrorClass.TRANSIENT, "audio_unreadable", source.failure)
        if isinstance(answer, Broken) or answer.status != OK:
            return no_success(answer)
        return transcripts.finished(answer.body, request)


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


def multipart(
    request: SpeechRequest, model: str | None, audio: Audio, chunks: AsyncIterator[bytes], boundary: str
) -> Upload:
    """Lay the form around the recording; its length is known before the first byte is sent."""
    parts = [_field(boundary, name, value) for name, value in fields(request, model)]
    media_type = audio.media_type if _MEDIA_TYPE.fullmatch(audio.media_type) else "application/octet-stream"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
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


def fields(request: SpeechRequest, model: str | None) -> list[tuple[str, str]]:
    """List the form's fields. The model goes by both names that servers know it by."""
    listed = [("response_format", "verbose_json"), ("temperature", str(request.temperature))]
    if model is not None:
        listed += [("model", model), ("model_name", model)]
    if request.language is not None:
        listed.append(("language", request.language))
    if request.prompt:
        listed.append(("prompt", request.prompt))
    if request.word_timestamps:
        listed += [("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")]
    return listed


def _field(boundary: str, name: str, value: str) -> str:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
