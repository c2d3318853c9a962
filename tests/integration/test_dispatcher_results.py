"""Results on their way into the store: their type, their name, how long they stay."""

import io
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from PIL import Image

from schemas.ids import ArtifactId, TaskId
from schemas.requests import ImageRequest, Request, SpeechRequest
from schemas.subjects import streams
from services import clock
from services.artifacts import ArtifactStore
from services.bus.connection import Bus
from services.bus.streams import ensure_stream
from services.dispatcher import results
from services.dispatcher.backends import images, transcripts
from services.dispatcher.backends.base import Audio, Finished, Job
from services.dispatcher.backends.transcripts import Transcript
from tests.api import eventually


@pytest.fixture
async def store(bus: Bus) -> ArtifactStore:
    for config in streams(max_age_days=14, artifact_bytes=1 << 30):
        if config["name"] == "OBJ_ARTIFACTS":
            await ensure_stream(bus, config)
    return ArtifactStore(bus)


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "WEBP")
    return file.getvalue()


async def nothing() -> AsyncIterator[bytes]:
    yield b""


def job(request: Request, recording: str | None = None) -> Job:
    audio = recording and Audio(open=nothing, size=1, media_type="audio/wav", filename=recording)
    return Job(task_id=TaskId(str(clock.new_task_id())), attempt=1, request=request, audio=audio or None)


def spoken(response_format: str) -> tuple[SpeechRequest, Finished]:
    request = SpeechRequest(artifact="upload-1", response_format=response_format)  # type: ignore[arg-type]  # one of them
    said = transcripts.finished(Transcript(text="hello", duration=1.0), request)
    assert isinstance(said, Finished)
    return request, said


@pytest.mark.parametrize(
    ("response_format", "recording", "name"),
    [
        ("srt", "talk.mp3", "talk.srt"),
        ("vtt", "a.b.wav", "a.b.vtt"),
        ("json", "talk", "talk.json"),
        ("text", "talk.wav", "talk.txt"),
        ("srt", "audio", None),
    ],
)
async def test_a_transcript_is_called_after_its_recording(
    store: ArtifactStore, response_format: str, recording: str, name: str | None
) -> None:
    request, said = spoken(response_format)

    done = await results.store(store, job(request, recording), said, 1.0, None)

    info = await store.info(done.artifacts[0].artifact_id)
    assert info is not None
    assert (info.filename, info.media_type) == (name, transcripts.MEDIA_TYPES[response_format])


async def test_results_are_kept_for_as_long_as_their_kind_is(store: ArtifactStore) -> None:
    drawn = images.finished([picture()], 1)
    assert isinstance(drawn, Finished)
    short = await results.store(store, job(ImageRequest(prompt="x")), drawn, 1.0, timedelta(seconds=1))
    long = await results.store(store, job(ImageRequest(prompt="x")), drawn, 1.0, timedelta(days=1))
    ever = await results.store(store, job(ImageRequest(prompt="x")), drawn, 1.0, None)

    async def gone() -> bool:
        return await store.info(short.artifacts[0].artifact_id) is None

    await eventually(gone)
    for done in (long, ever):
        assert await store.info(done.artifacts[0].artifact_id) is not None


async def test_the_store_of_an_earlier_version_learns_to_keep_for_a_time(bus: Bus) -> None:
    (now,) = (c for c in streams(max_age_days=14, artifact_bytes=1 << 30) if c["name"] == "OBJ_ARTIFACTS")
    before = {key: value for key, value in now.items() if key != "allow_msg_ttl"}
    await ensure_stream(bus, {**before, "subjects": now["subjects"][:2]})
    store = ArtifactStore(bus)
    info = await store.put(
        ArtifactId("old"), nothing(), nuid="old", now=clock.now(), media_type="image/png"
    )

    assert await ensure_stream(bus, now) == "changed OBJ_ARTIFACTS: allow_msg_ttl, subjects"
    assert await store.info(ArtifactId("old")) == info
    assert await ensure_stream(bus, now) is None
