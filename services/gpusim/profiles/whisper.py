"""speaches, with a real model: OpenAI's transcription and translation of audio.

It answers its health while it works, and goes on with what a client no longer waits for.
"""

import asyncio
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from aiohttp import web

from services.gpusim.gpu import Gpu, JobFailedError
from services.gpusim.profiles import detail, fastapi_missing, reply, unprocessable
from services.gpusim.speech import (
    LANGUAGE,
    AudioError,
    EmptyAudioError,
    Recognizer,
    SpeechUnavailableError,
)
from services.gpusim.transcript import ResponseFormat, Transcript, rendered

MODEL = "Systran/faster-whisper-tiny.en"

GARBAGE = b"\x00\xff<html>"
"""What a spoiled job gives in place of JSON."""

_LOADING = "loading model"
_UNDECODABLE = "Failed to decode audio. The provided file type is not supported."
_EMPTY = "Failed to decode audio. The provided file is likely empty."


class _Form(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    language: str | None = None
    prompt: str | None = None
    response_format: ResponseFormat = ResponseFormat.JSON
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    stream: bool = False


class _Upload(msgspec.Struct, frozen=True):
    content: bytes
    form: _Form
    words: bool


class _RefusedError(Exception):
    """The request does not get as far as the GPU; `response` says why."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(response.text)
        self.response = response


class Whisper:
    """See the module."""

    notices_disconnect = False

    def __init__(self, gpu: Gpu, models: Sequence[str], load: Callable[[], Recognizer]) -> None:
        self._gpu = gpu
        self._models = models
        self._load = load
        self._recognizer: Recognizer | None = None
        self._excuse = _LOADING

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/health", self._health),
            web.get("/v1/models", self._list_models),
            web.post("/v1/audio/transcriptions", self._transcribe),
            web.post("/v1/audio/translations", self._translate),
        ]

    def unauthorized(self, path: str) -> web.Response | None:
        return None if path == "/health" else detail("Invalid API key", 403)

    def missing(self, status: int) -> web.Response:
        return fastapi_missing(status)

    async def run(self) -> None:
        """Load the model."""
        try:
            self._recognizer = await asyncio.to_thread(self._load)
        except SpeechUnavailableError as error:
            self._excuse = str(error)

    async def _health(self, _request: web.Request) -> web.Response:
        if self._recognizer is None:
            return detail(self._excuse, 503)
        return reply({"message": "OK"})

    async def _list_models(self, _request: web.Request) -> web.Response:
        created = int(self._gpu.ledger.since)
        cards = [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": name.partition("/")[0],
                "language": [LANGUAGE],
                "task": "automatic-speech-recognition",
            }
            for name in self._models
        ]
        return reply({"data": cards, "object": "list"})

    async def _transcribe(self, http: web.Request) -> web.Response:
        return await self._answer(http, "transcribe")

    async def _translate(self, http: web.Request) -> web.Response:
        """Translate into English: what is English already is transcribed."""
        return await self._answer(http, "translate")

    async def _answer(self, http: web.Request, task: str) -> web.Response:
        try:
            upload = await _read(http)
            listen = await self._prepared(upload)
            transcript = await self._run(upload, listen)
        except _RefusedError as refusal:
            return refusal.response
        except JobFailedError as error:
            return _failed(error)
        if transcript is None:
            return web.Response(body=GARBAGE, content_type="application/json")
        content_type, body = rendered(transcript, upload.form.response_format, task)
        charset = "utf-8" if content_type.startswith("text/") else None
        return web.Response(body=body, content_type=content_type, charset=charset)

    async def _prepared(self, upload: _Upload) -> Callable[[], Transcript]:
        """Decode the audio, which takes no GPU, and give what is left to do."""
        form = upload.form
        if form.model not in self._models:
            hint = "You can download the model using `POST /v1/models`"
            raise _RefusedError(detail(f"Model '{form.model}' is not installed locally. {hint}", 404))
        if form.language not in (None, "", LANGUAGE):
            raise _RefusedError(detail(f"The model knows no other language than '{LANGUAGE}'", 400))
        if form.stream:
            raise _RefusedError(detail("This server does not stream", 400))
        if self._recognizer is None:
            raise _RefusedError(detail(self._excuse, 503))
        try:
            waveform = await asyncio.to_thread(self._recognizer.decode, upload.content)
        except EmptyAudioError as error:
            raise _RefusedError(detail(_EMPTY, 400)) from error
        except AudioError as error:
            raise _RefusedError(detail(_UNDECODABLE, 415)) from error
        return functools.partial(
            self._recognizer.transcribe,
            waveform,
            prompt=form.prompt,
            temperature=form.temperature,
            words=upload.words,
        )

    async def _run(self, upload: _Upload, listen: Callable[[], Transcript]) -> Transcript | None:
        """Hold the GPU and listen; None when the result must be garbage."""
        job = self._gpu.admit(digest=hashlib.sha256(upload.content).hexdigest())
        if job is None:
            raise _RefusedError(detail("The server is overloaded", 503))
        async with self._gpu.turn(job) as turn:
            await turn.stumble()
            transcript = await asyncio.to_thread(listen)
            await turn.drag()
            return None if turn.spoiled else transcript


async def _read(http: web.Request) -> _Upload:
    """Read the multipart form."""
    try:
        fields = await http.post()
    except ValueError as error:
        raise _RefusedError(detail(f"There was an error parsing the body: {error}", 400)) from error
    file = fields.get("file")
    if not isinstance(file, web.FileField):
        raise _RefusedError(unprocessable(["body", "file"], "Field required"))
    with file.file as spooled:  # closed here, because a crash has aiohttp leave it open
        content = spooled.read()
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    try:
        form = msgspec.convert(texts, _Form, strict=False)
    except msgspec.ValidationError as error:
        raise _RefusedError(unprocessable(["body"], str(error))) from error
    words = "word" in fields.getall("timestamp_granularities[]", [])
    return _Upload(content, form, words)


def _failed(error: JobFailedError) -> web.Response:
    if error.out_of_memory:
        return detail(str(error), 500)
    return web.Response(text="Internal Server Error", status=500)
