"""The simulated whisper.cpp and whisper-asr-webservice over HTTP: their transcriptions are real."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, FormData

from services.gpusim.control import Control
from services.gpusim.main import running
from services.gpusim.model import Fault, Options, Outcome, ProfileName
from tests import speech


class SpeechServer:
    """A client that posts a recording in a form."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self.control = Control(session, url)

    async def get(self, path: str) -> tuple[int, str, str]:
        async with self.session.get(f"{self.url}{path}") as answer:
            return answer.status, answer.content_type, await answer.text()

    async def post(
        self, path: str, member: str, content: bytes | None = None, **fields: str
    ) -> tuple[int, str, str]:
        """Give the status, the content type and the text of the answer."""
        form = FormData(fields)
        form.add_field(member, speech.clip() if content is None else content, filename="speech.wav")
        async with self.session.post(f"{self.url}{path}", data=form) as answer:
            return answer.status, answer.content_type, await answer.text()

    async def infer(self, content: bytes | None = None, **fields: str) -> tuple[int, str, str]:
        return await self.post("/inference", "file", content, **fields)

    # Any: a JSON answer of whatever shape the test asks for
    async def verbose(self, content: bytes, **fields: str) -> Any:
        status, content_type, text = await self.infer(content, response_format="verbose_json", **fields)
        assert (status, content_type) == (200, "application/json")
        return json.loads(text)

    async def asr(self, query: str, content: bytes | None = None) -> tuple[int, str, str]:
        return await self.post(f"/asr?{query}", "audio_file", content)

    async def until_running(self) -> None:
        async with asyncio.timeout(30):
            while not (await self.control.stats()).running:
                pass


@asynccontextmanager
async def serving(profile: ProfileName) -> AsyncIterator[SpeechServer]:
    async with running(Options(profile=profile)) as url, ClientSession() as session:
        yield SpeechServer(session, url)


@pytest.fixture(name="cpp")
async def _cpp() -> AsyncIterator[SpeechServer]:
    async with serving(ProfileName.WHISPERCPP) as server:
        yield server


@pytest.fixture(name="asr")
async def _asr() -> AsyncIterator[SpeechServer]:
    async with serving(ProfileName.WHISPER_ASR) as server:
        yield server


@pytest.mark.parametrize(
    ("form", "content_type", "begins"),
    [
        ("json", "application/json", '{"text":" He might'),
        ("no_such_format", "application/json", '{"text":" He might'),
        ("text", "text/html", " He might"),
        ("srt", "application/x-subrip", "1\n00:00:0"),
        ("vtt", "text/vtt", "WEBVTT\n"),
    ],
)
async def test_whisper_cpp_gives_each_format_in_its_own_type(
    cpp: SpeechServer, form: str, content_type: str, begins: str
) -> None:
    status, given, text = await cpp.infer(response_format=form)
    assert (status, given) == (200, content_type)
    assert text.startswith(begins)
    assert "made amiable himself" in text


async def test_whisper_cpp_names_the_language_and_puts_short_segments_on_lines(cpp: SpeechServer) -> None:
    answer = await cpp.verbose(speech.clip("0870"), split_on_word="true", language="de", translate="true")
    assert (answer["task"], answer["language"]) == ("transcribe", "english")
    lines = [segment["text"] for segment in answer["segments"]]
    assert len(lines) > 1
    assert answer["text"] == "".join(f"{line}\n" for line in lines)
    assert all(line.startswith(" ") and len(line) <= 60 for line in lines)
    words = [word for segment in answer["segments"] for word in segment["words"]]
    assert all(word["start"] <= word["end"] for word in words)
    assert "".join(word["word"] for word in words) == "".join(lines)


async def test_whisper_cpp_breaks_words_unless_told_otherwise(cpp: SpeechServer) -> None:
    recordings = [speech.clip(number) for number in ("0870", "0890", "0920")]
    answers = [await cpp.verbose(recording) for recording in recordings]
    lines = [segment["text"] for answer in answers for segment in answer["segments"]]
    assert any(not line.startswith(" ") for line in lines)


async def test_whisper_cpp_says_no_more_than_that_a_request_is_invalid(cpp: SpeechServer) -> None:
    invalid = (400, "text/plain", "Invalid request")
    assert await cpp.infer(b"no sound at all " * 99) == invalid
    assert await cpp.post("/inference", "audio_file") == invalid
    assert (await cpp.infer(temperature="hot"))[0] == 500
    for path in ("/v1/models", "/inference", "/openapi.json"):
        assert await cpp.get(path) == (404, "text/plain", "File Not Found")
    assert (await cpp.control.stats()).jobs.received == 0


async def test_whisper_cpp_says_its_health_while_it_works_and_stops_when_its_client_goes(
    cpp: SpeechServer,
) -> None:
    await cpp.control.script(Fault.HANG)
    call = asyncio.ensure_future(cpp.infer())
    await cpp.until_running()
    assert await cpp.get("/health") == (200, "application/json", '{"status":"ok"}')
    assert '<form action="/inference"' in (await cpp.get("/"))[2]
    call.cancel()
    async with asyncio.timeout(20):
        while (await cpp.control.stats()).running:
            pass
    assert (await cpp.control.jobs())[-1].outcome is Outcome.INTERRUPTED
    assert (await cpp.infer())[0] == 200


@pytest.mark.parametrize(
    ("query", "begins"),
    [
        ("", "He might"),
        ("output=txt", "He might"),
        ("output=srt", "1\n00:00:0"),
        ("output=vtt", "WEBVTT\n"),
        ("output=json", '{"text":" He might'),
    ],
)
async def test_whisper_asr_calls_everything_text(asr: SpeechServer, query: str, begins: str) -> None:
    status, content_type, text = await asr.asr(query)
    assert (status, content_type) == (200, "text/plain")
    assert text.startswith(begins)
    assert "made amiable himself" in text


async def test_whisper_asr_puts_words_into_their_segments_when_asked(asr: SpeechServer) -> None:
    with_words = json.loads((await asr.asr("output=json&word_timestamps=true"))[2])
    without = json.loads((await asr.asr("output=json"))[2])
    assert with_words["segments"][0]["words"][0]["word"] == " He"
    assert "words" not in without["segments"][0]
    assert set(without) == {"text", "segments", "language"}
    assert without["language"] == "en"


async def test_whisper_asr_refuses_as_fastapi_does_and_fails_at_what_is_no_sound(asr: SpeechServer) -> None:
    assert (await asr.post("/asr", "file"))[0] == 422
    assert (await asr.asr("word_timestamps=perhaps"))[0] == 422
    assert await asr.asr("", b"no sound at all " * 99) == (500, "text/plain", "Internal Server Error")
    assert (await asr.asr("output=none"))[::2] == (200, "")
    assert (await asr.get("/health"))[0] == 404


async def test_whisper_asr_answers_nothing_while_it_works_and_never_stops(asr: SpeechServer) -> None:
    assert "/asr" in json.loads((await asr.get("/openapi.json"))[2])["paths"]
    await asr.control.script(Fault.HANG)
    call = asyncio.ensure_future(asr.asr(""))
    await asr.until_running()
    probe = asyncio.ensure_future(asr.get("/openapi.json"))
    call.cancel()
    await asyncio.wait([call])
    assert (await asr.control.stats()).running == 1
    assert not probe.done()
    await asr.control.clear()
    assert (await probe)[0] == 200
    assert (await asr.control.jobs())[-1].outcome is Outcome.DONE


async def test_without_the_extra_both_say_why_they_hear_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "faster_whisper", None)  # its import fails
    reason = "pip install 'taskfold[speech]'"
    async with serving(ProfileName.WHISPERCPP) as cpp:
        assert reason in (await cpp.infer())[2]
        status, _, text = await cpp.get("/health")
        assert (status, reason in text) == (503, True)
    async with serving(ProfileName.WHISPER_ASR) as asr:
        for status, _, text in (await asr.asr(""), await asr.get("/openapi.json")):
            assert (status, reason in text) == (503, True)
