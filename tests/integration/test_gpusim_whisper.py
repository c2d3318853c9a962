"""The simulated speech server over HTTP: its transcriptions are real."""

import asyncio
import io
import json
import re
import sys
from collections.abc import AsyncIterator
from typing import Any

import av
import jiwer
import pytest
import pytest_asyncio
from aiohttp import ClientSession, FormData
from msgspec.structs import replace

from services.gpusim.control import Control
from services.gpusim.main import running
from services.gpusim.model import Fault, Options, Outcome, ProfileName
from tests import speech

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "whisper-tiny-en"
OPTIONS = Options(profile=ProfileName.WHISPER, models=(MODEL,))


def normalised(text: str) -> str:
    """Reduce a text to the words that the recordings' own listing would have."""
    spelled = re.sub(r"\bmr\.?(?= )", "mister", text.lower())
    return " ".join(re.findall(r"[a-z']+", spelled))


class SpeechServer:
    """A client that knows the routes."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self.control = Control(session, url)

    async def health(self) -> int:
        async with self.session.get(f"{self.url}/health") as answer:
            return answer.status

    async def loaded(self) -> None:
        async with asyncio.timeout(60):
            while await self.health() != 200:
                pass

    async def send(
        self, content: bytes | None, *, route: str = "transcriptions", **fields: str
    ) -> tuple[int, str, str]:
        """Give the status, the content type and the text of the answer."""
        form = FormData()
        for name, value in ({"model": MODEL} | fields).items():
            form.add_field(name.replace("granularities", "granularities[]"), value)
        if content is not None:
            form.add_field("file", content, filename="speech.wav")
        async with self.session.post(f"{self.url}/v1/audio/{route}", data=form) as answer:
            return answer.status, answer.content_type, await answer.text()

    # Any: a JSON answer of whatever shape the test asks for
    async def heard(self, content: bytes | None = None, **fields: str) -> Any:
        status, content_type, text = await self.send(
            speech.clip() if content is None else content, **fields
        )
        assert (status, content_type) == (200, "application/json")
        return json.loads(text)


@pytest_asyncio.fixture(name="server", scope="module", loop_scope="module")
async def _server() -> AsyncIterator[SpeechServer]:
    """One server for all, because loading the model takes longer than most of these tests."""
    async with running(OPTIONS) as url, ClientSession() as session:
        server = SpeechServer(session, url)
        await server.loaded()
        yield server


async def test_read_speech_is_transcribed_with_few_errors(server: SpeechServer) -> None:
    """Measured: 5.6 % of the words are wrong."""
    spoken = speech.clips()
    assert len(spoken) == 5
    heard = {clip: (await server.heard(clip.read_bytes()))["text"] for clip in spoken}
    wrong = jiwer.wer(
        [normalised(spoken[name]) for name in spoken], [normalised(heard[name]) for name in spoken]
    )
    assert wrong < 0.1
    stats = await server.control.stats()
    assert stats.max_waiting == 1
    assert stats.busy_s > 0


async def test_every_response_format_holds_the_words(server: SpeechServer) -> None:
    for form, expected in (("text", "text/plain"), ("srt", "text/plain"), ("vtt", "text/vtt")):
        status, content_type, text = await server.send(speech.clip(), response_format=form)
        assert (status, content_type) == (200, expected)
        assert "made amiable himself" in text
        assert ("-->" in text) == (form != "text")
    verbose = await server.heard(response_format="verbose_json")
    assert (verbose["task"], verbose["language"], verbose["words"]) == ("transcribe", "en", None)
    assert verbose["duration"] == pytest.approx(3.29, abs=0.01)
    assert verbose["segments"][0]["start"] == 0


async def test_words_have_times_when_asked_for(server: SpeechServer) -> None:
    verbose = await server.heard(response_format="verbose_json", timestamp_granularities="word")
    words = [word["word"].strip(" .") for word in verbose["words"]]
    assert words == ["He", "might", "even", "have", "been", "made", "amiable", "himself"]
    assert all(word["start"] <= word["end"] for word in verbose["words"])


def converted(container: str, codec: str, rate: int) -> bytes:
    """Give the short recording in another format."""
    written = io.BytesIO()
    with (
        av.open(io.BytesIO(speech.clip()), "r") as source,
        av.open(written, "w", format=container) as target,
    ):
        stream = target.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        resampler = av.AudioResampler(stream.format, "mono", rate)
        stream.layout = "mono"
        for frame in source.decode(audio=0):
            for part in resampler.resample(frame):
                target.mux(stream.encode(part))
        target.mux(stream.encode(None))
    return written.getvalue()


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("mp3", "libmp3lame", 44_100),
        ("flac", "flac", 16_000),
        ("ogg", "libopus", 48_000),
        ("ipod", "aac", 44_100),  # m4a
        ("webm", "libopus", 48_000),
    ],
)
async def test_audio_may_come_in_any_common_format(
    server: SpeechServer, container: str, codec: str, rate: int
) -> None:
    answer = await server.heard(converted(container, codec, rate))
    assert "made amiable himself" in answer["text"]


async def test_a_translation_of_english_is_its_transcription(server: SpeechServer) -> None:
    answer = await server.heard(route="translations", response_format="verbose_json")
    assert answer["task"] == "translate"
    assert "made amiable himself" in answer["text"]


async def test_what_is_no_audio_is_a_415_and_no_job(server: SpeechServer) -> None:
    before = (await server.control.stats()).jobs.received
    assert (await server.send(b"no sound at all " * 99))[0] == 415
    assert (await server.send(b""))[0] == 400
    assert (await server.send(speech.clip()[:44]))[0] == 400
    assert (await server.control.stats()).jobs.received == before


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"model": "whisper-large"}, 404, "Model 'whisper-large' is not installed locally"),
        ({"language": "fr"}, 400, "no other language than 'en'"),
        ({"response_format": "lrc"}, 422, "lrc"),
        ({"temperature": "hot"}, 422, "temperature"),
        ({"stream": "true"}, 400, "does not stream"),
    ],
)
async def test_a_field_that_cannot_be_served_is_refused(
    server: SpeechServer, fields: dict[str, str], status: int, message: str
) -> None:
    given, _, text = await server.send(speech.clip(), **fields)
    assert given == status
    assert message in text


async def test_a_form_without_a_file_or_no_form_at_all_is_refused(server: SpeechServer) -> None:
    assert (await server.send(None))[0] == 422
    async with server.session.post(f"{server.url}/v1/audio/transcriptions", data=b"x") as answer:
        assert answer.status == 422


async def test_health_answers_while_the_gpu_is_taken(server: SpeechServer) -> None:
    await server.control.script(Fault.HANG)
    call = asyncio.ensure_future(server.send(speech.clip()))
    async with asyncio.timeout(10):
        while not (await server.control.stats()).running:
            pass
    assert await server.health() == 200
    await server.control.clear()
    assert (await call)[0] == 200


async def test_a_client_that_goes_away_does_not_free_the_gpu(server: SpeechServer) -> None:
    await server.control.script(Fault.HANG)
    call = asyncio.ensure_future(server.send(speech.clip()))
    async with asyncio.timeout(20):
        while not (await server.control.stats()).running:
            pass
        call.cancel()
        await asyncio.wait([call])
        await server.control.clear()
        while (await server.control.stats()).running:
            pass
    job = (await server.control.jobs())[-1]
    assert (job.outcome, len(job.digest or "")) == (Outcome.DONE, 64)


async def test_a_key_is_asked_for_with_403_and_never_for_health() -> None:
    async with running(replace(OPTIONS, api_key="secret")) as url, ClientSession() as session:
        server = SpeechServer(session, url)
        assert (await server.send(speech.clip()))[0] == 403
        assert await server.health() in {200, 503}


async def test_without_the_extra_there_is_a_reason_and_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the one model of all tests
    monkeypatch.setitem(sys.modules, "faster_whisper", None)  # its import fails
    async with running(OPTIONS) as url, ClientSession() as session:
        server = SpeechServer(session, url)
        async with asyncio.timeout(10):
            while "loading" in (answer := await server.send(speech.clip()))[2]:
                pass
        assert answer[0] == 503
        assert "pip install 'taskfold[speech]'" in answer[2]
        assert await server.health() == 503
