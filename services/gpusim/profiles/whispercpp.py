"""whisper.cpp's `whisper-server`, with a real model that knows English only.

It says nothing of what was wrong with a request, and stops when its client goes away.
"""

from collections.abc import Callable, Sequence

import msgspec
from aiohttp import web
from msgspec.structs import replace

from services.gpusim.gpu import Gpu, JobFailedError
from services.gpusim.listening import GARBAGE, Ears
from services.gpusim.profiles import reply
from services.gpusim.profiles.whispercpp_answer import text, verbose, wrapped
from services.gpusim.speech import AudioError, Recognizer, SpeechUnavailableError
from services.gpusim.transcript import ResponseFormat, Transcript, rendered
from services.gpusim.upload import RefusedError, texts, uploaded

MODEL = "ggml-tiny.en.bin"

_FAILED = "failed to process audio"

_PAGE = """<html>
<head><title>Whisper.cpp Server</title></head>
<body><form action="/inference" method="POST" enctype="multipart/form-data"></form></body>
</html>"""


class _Form(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of the form. It takes more, and ignores what it does not know."""

    prompt: str | None = None
    response_format: str = "json"
    temperature: float = 0.0
    split_on_word: str = "false"


class WhisperCpp:
    """See the module."""

    notices_disconnect = True

    def __init__(self, gpu: Gpu, load: Callable[[], Recognizer]) -> None:
        self._gpu = gpu
        self._ears = Ears(gpu, load)

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/", self._page),
            web.get("/health", self._health),
            web.post("/inference", self._infer),
        ]

    def unauthorized(self, _path: str) -> web.Response | None:
        """Stand in for the proxy in front: the real server knows no keys."""
        return reply({"error": "Unauthorized"}, 401)

    def missing(self, _status: int) -> web.Response:
        return web.Response(text="File Not Found", status=404)

    async def run(self) -> None:
        """Load the model; who asks for a transcription meanwhile waits for it."""
        await self._ears.load()

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text=_PAGE, content_type="text/html")

    async def _health(self, _request: web.Request) -> web.Response:
        """Answer 503 without a model, which the real one means to, and then spoils as all errors."""
        excuse = self._ears.excuse
        return reply({"status": "ok"}) if excuse is None else reply({"status": excuse}, 503)

    async def _infer(self, http: web.Request) -> web.Response:
        try:
            content, form = await _read(http)
            transcript = await self._heard(content, form)
        except RefusedError as refusal:
            return refusal.response
        except AudioError:
            return _invalid()
        except JobFailedError as error:
            return _broken(str(error)) if error.out_of_memory else reply({"error": _FAILED}, 500)
        except SpeechUnavailableError as error:
            return _broken(str(error))
        if transcript is None:
            return web.Response(body=GARBAGE, content_type="application/json")
        return _answer(transcript, form)

    async def _heard(self, content: bytes, form: _Form) -> Transcript | None:
        """Hold the GPU and listen; None when the result must be garbage. Its words always have times."""
        recording = await self._ears.decode(content)
        job = self._gpu.admit(digest=recording.digest)
        if job is None:
            raise RefusedError(_busy())
        heard = await self._ears.hear(
            job, recording, prompt=form.prompt, temperature=form.temperature, words=True
        )
        if heard is None:
            return None
        on_words = form.split_on_word == "true"
        lines = [line for segment in heard.segments for line in wrapped(segment, on_words=on_words)]
        return replace(heard, segments=tuple(lines))


async def _read(http: web.Request) -> tuple[bytes, _Form]:
    try:
        content, fields = await uploaded(http, "file")
    except ValueError as error:
        raise RefusedError(_invalid()) from error
    if content is None:
        raise RefusedError(_invalid())
    try:
        return content, msgspec.convert(texts(fields), _Form, strict=False)
    except msgspec.ValidationError as error:
        raise RefusedError(_broken("stof")) from error


def _answer(transcript: Transcript, form: _Form) -> web.Response:
    """Give the format that was asked for, JSON for what is none."""
    match form.response_format:
        case "verbose_json":
            return reply(verbose(transcript))
        case "text":
            return web.Response(text=text(transcript), content_type="text/html")
        case "srt":
            _, body = rendered(transcript, ResponseFormat.SRT, "transcribe")
            return web.Response(body=body, content_type="application/x-subrip")
        case "vtt":
            _, body = rendered(transcript, ResponseFormat.VTT, "transcribe")
            return web.Response(body=body, content_type="text/vtt")
        case _:
            return reply({"text": text(transcript)})


def _invalid() -> web.Response:
    return web.Response(text="Invalid request", status=400)


def _broken(reason: str) -> web.Response:
    """Answer as where an exception was thrown."""
    return web.Response(text=f"500 Internal Server Error\n{reason}", status=500)


def _busy() -> web.Response:
    """Stand in for the proxy in front: the real server lets every request wait."""
    return web.Response(text="Service Unavailable", status=503)
