"""What no answer of a server, however hostile or odd, may lead an adapter to do."""

import asyncio
import base64
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from schemas.events import ErrorClass
from schemas.registry import KIND_OF, Protocol
from schemas.requests import Kind, SpeechRequest
from services.dispatcher.backends.base import (
    MAX_RESPONSE_BYTES,
    Adapter,
    Audio,
    Job,
    Misconfigured,
    Ready,
    Silent,
)
from services.dispatcher.backends.detect import adapter_for
from services.gpusim.main import running
from services.gpusim.model import Options
from tests.conformance.rigs import (
    PROFILES,
    backend_at,
    eventually,
    failed,
    finished,
    image_job,
    speech_job,
)
from tests.conformance.servers import one_answer_per_connection, serving, silent
from tests.fakes import picture


def job_for(protocol: Protocol, model: str | None = "m") -> Job:
    if KIND_OF[protocol] is Kind.SPEECH:
        return speech_job(model, SpeechRequest(artifact="a-1"))
    return image_job(model)


def adapter_at(session: aiohttp.ClientSession, url: str, protocol: Protocol) -> Adapter:
    return adapter_for(session, backend_at(url, protocol))


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(
    session: aiohttp.ClientSession, protocol: Protocol, status: int
) -> None:
    visited: list[str] = []

    async def target(request: web.Request) -> web.Response:
        visited.append(request.path)
        return web.json_response({})

    async with serving(target) as elsewhere:

        async def redirect(request: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": f"{elsewhere}{request.path}"})

        async with serving(redirect) as url:
            adapter = adapter_at(session, url, protocol)
            ended = await failed(adapter.call(job_for(protocol)))
            assert isinstance(await adapter.probe(2.0), Misconfigured)
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.MISCONFIGURED, "redirected")
    assert visited == []


@pytest.mark.parametrize("protocol", [Protocol.OPENAI_IMAGES, Protocol.OPENAI_STT])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_an_answer_without_end_is_cut_off(
    session: aiohttp.ClientSession, protocol: Protocol, encoding: str
) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        await request.read()
        response = web.StreamResponse(headers={"Content-Encoding": encoding})
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 20))
            sent += 1 << 20

    async with serving(endless) as url:
        ended = await failed(adapter_at(session, url, protocol).call(job_for(protocol)))
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.TRANSIENT, "response_too_large")
    assert sent < 2 * MAX_RESPONSE_BYTES


@pytest.mark.parametrize("protocol", Protocol)
async def test_a_server_that_says_nothing_is_silent_and_not_down(
    session: aiohttp.ClientSession, protocol: Protocol
) -> None:
    async with silent() as url:
        adapter = adapter_at(session, url, protocol)
        assert await adapter.probe(1.0) == Silent()


@pytest.mark.parametrize("protocol", Protocol)
async def test_a_key_is_sent_and_a_wrong_one_is_a_misconfiguration(
    session: aiohttp.ClientSession, protocol: Protocol
) -> None:
    async with running(Options(profile=PROFILES[protocol], step_ms=0, api_key="s3cret")) as url:
        right = adapter_for(session, backend_at(url, protocol, api_key="s3cret"))

        async def ready() -> bool:
            return isinstance(await right.probe(2.0), Ready)

        await eventually(ready)
        health = await right.probe(2.0)
        assert isinstance(health, Ready)
        await finished(right.call(job_for(protocol, next(iter(health.models), None))))
        wrong = adapter_for(session, backend_at(url, protocol, api_key="wrong"))
        assert isinstance(await wrong.probe(2.0), Misconfigured)
        ended = await failed(wrong.call(job_for(protocol)))
        assert (ended.error.error_class, ended.error.code) == (ErrorClass.MISCONFIGURED, "access_denied")


@pytest.mark.parametrize("protocol", Protocol)
async def test_the_length_of_a_body_is_always_said(
    session: aiohttp.ClientSession, protocol: Protocol
) -> None:
    seen: list[tuple[str | None, int, str | None]] = []

    async def note(request: web.Request) -> web.Response:
        length = request.headers.get("Content-Length")
        seen.append((length, len(await request.read()), request.headers.get("Transfer-Encoding")))
        return web.json_response({"error": "no"}, status=400)

    async with serving(note) as url:
        await failed(adapter_at(session, url, protocol).call(job_for(protocol)))
    ((length, received, transfer),) = seen
    assert length == str(received)
    assert transfer is None


@pytest.mark.parametrize("protocol", Protocol)
async def test_a_busy_server_says_when_to_come_back(
    session: aiohttp.ClientSession, protocol: Protocol
) -> None:
    async def busy(_request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "17"})

    async with serving(busy) as url:
        ended = await failed(adapter_at(session, url, protocol).call(job_for(protocol)))
    assert ended.error.error_class is ErrorClass.OVERLOADED
    assert ended.retry_after_s == 17


@pytest.mark.parametrize("protocol", Protocol)
async def test_an_answer_that_is_not_http_is_a_lost_connection(
    session: aiohttp.ClientSession, protocol: Protocol
) -> None:
    async def gibberish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"\x16\x03\x01 what is this\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(gibberish, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ended = await failed(adapter_at(session, url, protocol).call(job_for(protocol)))
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.TRANSIENT, "connection_lost")


@pytest.mark.parametrize("reference", ["/files/1.png", "files/1.png", "{base}/files/1.png"])
async def test_an_image_may_lie_behind_a_url_of_the_same_server(
    session: aiohttp.ClientSession, reference: str
) -> None:
    drawn = picture(image_job("m").request, 7)  # type: ignore[arg-type]  # an image job's request

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("1.png"):
            return web.Response(body=base64.b64decode(drawn), content_type="image/png")
        return web.json_response({"data": [{"url": reference.format(base=f"http://{request.host}")}]})

    async with serving(answer) as url:
        ended = await finished(adapter_at(session, url, Protocol.OPENAI_IMAGES).call(image_job("m")))
    assert ended.outputs[0].width == 128


@pytest.mark.parametrize(
    "reference", ["{foreign}/1.png", "//{host}/1.png", "file:///etc/passwd", "http://[", "gopher://x/"]
)
async def test_an_image_on_another_host_is_not_fetched(
    session: aiohttp.ClientSession, reference: str
) -> None:
    visited: list[str] = []

    async def foreign(request: web.Request) -> web.Response:
        visited.append(request.path)
        return web.Response()

    async with serving(foreign) as elsewhere:

        async def answer(_request: web.Request) -> web.Response:
            named = reference.format(foreign=elsewhere, host=elsewhere.removeprefix("http://"))
            return web.json_response({"data": [{"url": named}]})

        async with serving(answer) as url:
            await failed(adapter_at(session, url, Protocol.OPENAI_IMAGES).call(image_job("m")))
    assert visited == []


async def test_a_recording_that_the_server_refuses_while_it_comes_is_refused_for_good(
    session: aiohttp.ClientSession,
) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"detail": "Maximum file size exceeded"}, status=413)

    async with serving(refuse) as url:
        job = speech_job("m", SpeechRequest(artifact="a-1"), content=bytes(8 << 20))
        ended = await failed(adapter_at(session, url, Protocol.OPENAI_STT).call(job))
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.PERMANENT, "rejected_by_backend")
    assert "Maximum file size exceeded" in ended.error.message


@pytest.mark.parametrize("size", [3, 1000])
async def test_a_recording_that_is_not_as_long_as_it_was_said_is_no_fault_of_the_backend(
    session: aiohttp.ClientSession, size: int
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"RIFF-RIFF"

    await _unreadable(session, Audio(open=broken, size=size, media_type="audio/wav", filename="a.wav"))


async def test_a_recording_that_cannot_be_read_is_no_fault_of_the_backend(
    session: aiohttp.ClientSession,
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"RIFF"
        raise LookupError("the artifact store is away")

    await _unreadable(session, Audio(open=broken, size=1000, media_type="audio/wav", filename="a.wav"))


async def _unreadable(session: aiohttp.ClientSession, audio: Audio) -> None:
    async def listen(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"text": "something"})

    async with serving(listen) as url:
        job = replace(speech_job("m", SpeechRequest(artifact="a-1"), b""), audio=audio)
        ended = await failed(adapter_at(session, url, Protocol.OPENAI_STT).call(job))
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.TRANSIENT, "audio_unreadable")


@pytest.mark.parametrize("url", ["http://no-such-host.invalid:1", "http://localhost:1"])
@pytest.mark.parametrize("protocol", Protocol)
async def test_an_address_where_nobody_is_blames_the_backend(
    session: aiohttp.ClientSession, protocol: Protocol, url: str
) -> None:
    ended = await failed(adapter_at(session, url, protocol).call(job_for(protocol)))
    assert ended.error.error_class is ErrorClass.BACKEND_DOWN
    expected = "connection_refused" if "localhost" in url else "backend_unreachable"
    assert ended.error.code == expected


@pytest.mark.parametrize("protocol", Protocol)
async def test_a_job_never_starts_on_a_connection_that_the_server_may_be_closing(
    session: aiohttp.ClientSession, protocol: Protocol
) -> None:
    async with one_answer_per_connection() as url:
        adapter = adapter_at(session, url, protocol)
        for _ in range(3):
            ended = await failed(adapter.call(job_for(protocol)))
            assert ended.error.code == "rejected_by_backend"
