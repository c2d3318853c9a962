"""whisper-asr-webservice with OpenAI's own whisper, and a real model that knows English only.

It answers nothing while it works, and goes on with what a client no longer waits for. The file is
always decoded, as with `encode=true`.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from aiohttp import web

from services.gpusim.gpu import Gpu, JobFailedError
from services.gpusim.listening import GARBAGE, Ears
from services.gpusim.profiles import detail, fastapi_missing, reply, unprocessable
from services.gpusim.speech import AudioError, Recognizer, SpeechUnavailableError
from services.gpusim.transcript import ResponseFormat, Segment, Transcript, rendered
from services.gpusim.upload import uploaded

MODEL = "tiny.en"

_DESCRIPTION = {
    "openapi": "3.1.0",
    "info": {"title": "Whisper Asr Webservice", "version": "1.9.1"},
    "paths": {"/asr": {"post": {"tags": ["Endpoints"], "operationId": "asr_asr_post"}}},
}
_FORMATS = {"txt": ResponseFormat.TEXT, "srt": ResponseFormat.SRT, "vtt": ResponseFormat.VTT}


class _Query(msgspec.Struct, frozen=True, kw_only=True):
    initial_prompt: str | None = None
    word_timestamps: bool = False
    output: str = "txt"


class WhisperAsr:
    """See the module."""

    notices_disconnect = False

    def __init__(self, gpu: Gpu, load: Callable[[], Recognizer]) -> None:
        self._gpu = gpu
        self._ears = Ears(gpu, load)
        self._loop = asyncio.Lock()
        """Held by what would block the real server's event loop."""

    def routes(self) -> Sequence[web.RouteDef]:
        return [web.get("/openapi.json", self._describe), web.post("/asr", self._asr)]

    def unauthorized(self, _path: str) -> web.Response | None:
        """Stand in for the proxy in front: the real server knows no keys."""
        return reply({"error": "Unauthorized"}, 401)

    def missing(self, status: int) -> web.Response:
        return fastapi_missing(status)

    async def run(self) -> None:
        """Load the model, before which nothing is answered."""
        async with self._loop:
            await self._ears.load()

    async def _describe(self, _request: web.Request) -> web.Response:
        async with self._loop:
            excuse = self._ears.excuse
        return reply(_DESCRIPTION) if excuse is None else detail(excuse, 503)

    async def _asr(self, http: web.Request) -> web.Response:
        try:
            query = msgspec.convert(dict(http.query), _Query, strict=False)
        except msgspec.ValidationError as error:
            return unprocessable(["query"], str(error))
        try:
            content, _ = await uploaded(http, "audio_file")
        except ValueError:
            return detail("There was an error parsing the body", 400)
        if content is None:
            return unprocessable(["body", "audio_file"], "Field required")
        try:
            return await self._answer(content, query)
        except SpeechUnavailableError as error:
            return detail(str(error), 503)
        except (AudioError, JobFailedError):
            return web.Response(text="Internal Server Error", status=500)

    async def _answer(self, content: bytes, query: _Query) -> web.Response:
        """Hold the GPU and listen. Everything is called text, JSON too."""
        recording = await self._ears.decode(content)
        job = self._gpu.admit(digest=recording.digest)
        if job is None:
            return web.Response(text="Service Unavailable", status=503)  # uvicorn's, at --limit-concurrency
        async with self._loop:
            heard = await self._ears.hear(
                job, recording, prompt=query.initial_prompt, temperature=0.0, words=query.word_timestamps
            )
        body = GARBAGE if heard is None else _written(heard, query.output)
        return web.Response(body=body, content_type="text/plain", charset="utf-8")


def _written(transcript: Transcript, output: str) -> bytes:
    """Give the format that was asked for, nothing for what is none."""
    if output == "json":
        segments = [_described(segment) for segment in transcript.segments]
        whole = "".join(segment.text for segment in transcript.segments)
        return msgspec.json.encode({"text": whole, "segments": segments, "language": transcript.language})
    return rendered(transcript, _FORMATS[output], "transcribe")[1] if output in _FORMATS else b""


def _described(segment: Segment) -> dict[str, object]:
    """Leave out the words where they have no times."""
    members: dict[str, object] = msgspec.to_builtins(segment)
    return {name: value for name, value in members.items() if value is not None}
