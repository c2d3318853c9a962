"""speaches, with a real model: OpenAI's transcription and translation of audio.

It answers its health while it works, and goes on with what a client no longer waits for.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from aiohttp import web

from services.gpusim.gpu import Gpu, JobFailedError
from services.gpusim.listening import GARBAGE, Ears, Recording
from services.gpusim.profiles import detail, fastapi_missing, reply, unprocessable
from services.gpusim.speech import LANGUAGE, AudioError, EmptyAudioError, Recognizer
from services.gpusim.transcript import ResponseFormat, Transcript, rendered
from services.gpusim.upload import RefusedError, texts, uploaded

MODEL = "Systran/faster-whisper-tiny.en"

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


class Whisper:
    """See the module."""

    notices_disconnect = False

    def __init__(self, gpu: Gpu, models: Sequence[str], load: Callable[[], Recognizer]) -> None:
        self._gpu = gpu
        self._models = models
        self._ears = Ears(gpu, load)

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
        await self._ears.load()

    async def _health(self, _request: web.Request) -> web.Response:
        excuse = self._ears.excuse
        return reply({"message": "OK"}) if excuse is None else detail(excuse, 503)

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
            transcript = await self._run(upload, await self._prepared(upload))
        except RefusedError as refusal:
            return refusal.response
        except JobFailedError as error:
            return _failed(error)
        if transcript is None:
            return web.Response(body=GARBAGE, content_type="application/json")
        content_type, body = rendered(transcript, upload.form.response_format, task)
        charset = "utf-8" if content_type.startswith("text/") else None
        return web.Response(body=body, content_type=content_type, charset=charset)

    async def _prepared(self, upload: _Upload) -> Recording:
        """Decode the audio of a request that can be served."""
        form = upload.form
        if form.model not in self._models:
            hint = "You can download the model using `POST /v1/models`"
            raise RefusedError(detail(f"Model '{form.model}' is not installed locally. {hint}", 404))
        if form.language not in (None, "", LANGUAGE):
            raise RefusedError(detail(f"The model knows no other language than '{LANGUAGE}'", 400))
        if form.stream:
            raise RefusedError(detail("This server does not stream", 400))
        if self._ears.excuse is not None:
            raise RefusedError(detail(self._ears.excuse, 503))
        try:
            return await self._ears.decode(upload.content)
        except EmptyAudioError as error:
            raise RefusedError(detail(_EMPTY, 400)) from error
        except AudioError as error:
            raise RefusedError(detail(_UNDECODABLE, 415)) from error

    async def _run(self, upload: _Upload, recording: Recording) -> Transcript | None:
        """Hold the GPU and listen; None when the result must be garbage."""
        form = upload.form
        job = self._gpu.admit(digest=recording.digest, model=form.model)
        if job is None:
            raise RefusedError(detail("The server is overloaded", 503))
        return await self._ears.hear(
            job, recording, prompt=form.prompt, temperature=form.temperature, words=upload.words
        )


async def _read(http: web.Request) -> _Upload:
    """Read the multipart form."""
    try:
        content, fields = await uploaded(http, "file")
    except ValueError as error:
        raise RefusedError(detail(f"There was an error parsing the body: {error}", 400)) from error
    if content is None:
        raise RefusedError(unprocessable(["body", "file"], "Field required"))
    try:
        form = msgspec.convert(texts(fields), _Form, strict=False)
    except msgspec.ValidationError as error:
        raise RefusedError(unprocessable(["body"], str(error))) from error
    words = "word" in fields.getall("timestamp_granularities[]", [])
    return _Upload(content, form, words)


def _failed(error: JobFailedError) -> web.Response:
    if error.out_of_memory:
        return detail(str(error), 500)
    return web.Response(text="Internal Server Error", status=500)
