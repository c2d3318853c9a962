"""What the three protocols of speech servers promise, each in its own way."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from schemas.events import ErrorClass
from schemas.registry import KIND_OF, Protocol
from schemas.requests import Kind, SpeechRequest
from services.dispatcher.backends.base import Health, Loading, Misconfigured, Ready
from services.dispatcher.backends.detect import adapter_for, recognise
from tests.conformance.rigs import (
    SPOKEN,
    backend_at,
    eventually,
    failed,
    finished,
    job,
    simulated,
    speech_job,
)
from tests.conformance.servers import serving

SPEECH = [protocol for protocol, kind in KIND_OF.items() if kind is Kind.SPEECH]


@pytest.mark.parametrize("protocol", SPEECH)
async def test_speech_is_heard_and_its_length_is_known(
    session: aiohttp.ClientSession, protocol: Protocol
) -> None:
    async with simulated(session, protocol) as rig:
        ended = await finished(rig.adapter.call(job(rig)))
    assert ended.audio_s == pytest.approx(3.29, abs=0.3)  # without a duration: until the last word
    assert set((ended.text or "").lower().strip(".").split()) == SPOKEN


@pytest.mark.parametrize("protocol", SPEECH)
async def test_words_have_their_times_where_they_are_asked_for(
    session: aiohttp.ClientSession, protocol: Protocol
) -> None:
    request = SpeechRequest(
        artifact="a-1",
        word_timestamps=True,
        response_format="verbose_json",
        language="en",
        prompt="Austen.",
    )
    async with simulated(session, protocol) as rig:
        ended = await finished(rig.adapter.call(speech_job(rig.model, request)))
    assert b'"words":[{"word":"He","start":0' in ended.outputs[0].data
    assert b'"language":"en"' in ended.outputs[0].data


@pytest.mark.parametrize("protocol", SPEECH)
async def test_a_translation_is_asked_for_in_the_way_of_the_server(
    session: aiohttp.ClientSession, protocol: Protocol
) -> None:
    request = SpeechRequest(artifact="a-1", translate=True, response_format="verbose_json")
    async with simulated(session, protocol) as rig:
        ended = await finished(rig.adapter.call(speech_job(rig.model, request)))
    assert ended.outputs[0].data.startswith(b'{"task":"translate"')


@pytest.mark.parametrize(
    ("protocol", "message"),
    [(Protocol.OPENAI_STT, "decode audio"), (Protocol.WHISPERCPP, "Invalid request")],
)
async def test_what_is_no_recording_is_refused_for_good(
    session: aiohttp.ClientSession, protocol: Protocol, message: str
) -> None:
    async with simulated(session, protocol) as rig:
        noise = speech_job(rig.model, SpeechRequest(artifact="a-1"), content=b"not audio at all")
        ended = await failed(rig.adapter.call(noise))
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.PERMANENT, "rejected_by_backend")
    assert message in ended.error.message


async def test_a_server_that_fails_at_what_is_no_recording_leaves_the_blame_open(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.WHISPER_ASR) as rig:
        noise = speech_job(rig.model, SpeechRequest(artifact="a-1"), content=b"not audio at all")
        ended = await failed(rig.adapter.call(noise))
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.TRANSIENT, "backend_error")


async def test_whisper_cpp_stops_by_itself_when_its_client_hangs_up(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.WHISPERCPP) as rig:
        await rig.hold()
        call = rig.adapter.call(job(rig))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(call))
            await rig.held()
            await call.stop()
        assert ending.result().error.code == "cancelled"

        async def interrupted() -> bool:
            return (await rig.control.stats()).jobs.interrupted == 1

        await eventually(interrupted)
        await finished(rig.adapter.call(job(rig)))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"/health": (200, '{"status":"ok"}')}, Ready()),
        ({"/health": (503, '{"status":"loading model"}')}, Loading),
        ({"/": (200, '<form action="/inference" method="POST">')}, Ready()),
        ({"/": (200, "<p>another server</p>")}, Misconfigured),
        ({}, Misconfigured),
    ],
)
async def test_whisper_cpp_is_ready_by_its_health_or_an_old_build_by_its_page(
    session: aiohttp.ClientSession, answers: dict[str, tuple[int, str]], expected: Ready | type[Health]
) -> None:
    async def answer(request: web.Request) -> web.Response:
        status, text = answers.get(request.path, (404, f"File Not Found ({request.path})"))
        return web.Response(status=status, text=text)

    async with serving(answer) as url:
        health = await adapter_for(session, backend_at(url, Protocol.WHISPERCPP)).probe(2.0)
    assert health == expected if isinstance(expected, Ready) else isinstance(health, expected)


async def test_whisper_cpp_with_the_path_of_openai_is_recognised_as_such_and_not_called_at_its_own(
    session: aiohttp.ClientSession,
) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/":
            return web.Response(text='<form action="/v1/audio/transcriptions" method="POST">')
        if request.path == "/health":
            return web.json_response({"status": "ok"})
        await request.read()
        return web.Response(status=404, text=f"File Not Found ({request.path})")

    async with serving(answer) as url:
        found = await recognise(session, backend_at(url, None, kind=Kind.SPEECH), 2.0)
        wrong = adapter_for(session, backend_at(url, Protocol.WHISPERCPP))
        ended = await failed(wrong.call(speech_job(None, SpeechRequest(artifact="a-1"))))
    assert found is Protocol.OPENAI_STT
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.MISCONFIGURED, "no_such_route")


async def test_a_server_that_does_not_describe_its_route_is_no_whisper_asr(
    session: aiohttp.ClientSession,
) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"openapi": "3.1.0", "paths": {"/v1/other": {}}})

    async with serving(answer) as url:
        health = await adapter_for(session, backend_at(url, Protocol.WHISPER_ASR)).probe(2.0)
    assert isinstance(health, Misconfigured)
    assert "/asr" in health.reason


async def test_a_model_that_the_backend_lacks_is_its_misconfiguration(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.OPENAI_STT) as rig:
        ended = await failed(rig.adapter.call(speech_job("no/such", SpeechRequest(artifact="a-1"))))
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.MISCONFIGURED, "model_missing")
