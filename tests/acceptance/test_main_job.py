"""The main job as a person does it: one command, a picture and a recording, both watched and fetched."""

import io
import re
from pathlib import Path

import aiohttp
import jiwer
from PIL import Image

from tests import speech
from tests.acceptance.test_up_life import Make, up  # noqa: F401 - the fixture
from tests.cluster import finals, types
from tests.stream import Reader

WER_LIMIT = 0.15


async def test_a_picture_and_a_recording_from_submission_to_the_result(up: Make) -> None:  # noqa: F811 - the fixture
    instance = up(simulated_gpus=1, simulated_step_ms=2).start().ready()
    async with aiohttp.ClientSession(instance.url) as http:
        await picture(http, instance.url)
        await recordings(http)
    assert instance.stop() == 0
    again = up(simulated_gpus=1).start().ready()
    async with aiohttp.ClientSession() as http, http.get(f"{again.url}/api/v1/tasks?status=DONE") as answer:
        assert len((await answer.json())["tasks"]) == 1 + len(speech.clips())


async def picture(http: aiohttp.ClientSession, url: str) -> None:
    body = {"prompt": "a red fox in the snow", "width": 512, "height": 384, "seed": 7}
    async with http.post("/api/v1/image/async", json=body) as answer:
        assert answer.status == 202
        accepted = await answer.json()
    reader = Reader(http, f"{url}{accepted['events_url']}")
    await reader.run()
    assert types(reader.events)[0] == "submitted"
    assert finals(reader.events) == ["task.done"]
    async with http.get(accepted["result_url"]) as answer:
        assert answer.content_type == "image/png"
        image = Image.open(io.BytesIO(await answer.read()))
    assert image.size == (512, 384)


async def recordings(http: aiohttp.ClientSession) -> None:
    said = speech.clips()
    urls = {clip: await submitted(http, clip) for clip in said}
    heard = {clip: await transcribed(http, url) for clip, url in urls.items()}
    error = jiwer.wer([plain(said[clip]) for clip in said], [plain(heard[clip]) for clip in said])
    assert error <= WER_LIMIT, heard


def form(clip: Path) -> aiohttp.FormData:
    filled = aiohttp.FormData()
    filled.add_field("file", clip.read_bytes(), filename=clip.name)
    return filled


async def submitted(http: aiohttp.ClientSession, clip: Path) -> str:
    async with http.post("/api/v1/speech/async", data=form(clip)) as answer:
        assert answer.status == 202, await answer.text()
        url: str = (await answer.json())["status_url"]
        return url


async def transcribed(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(url, params={"wait": "60"}) as answer:
        document = await answer.json()
    assert document["status"] == "DONE", document
    text: str = document["text"]
    return text


def plain(text: str) -> str:
    """Take away what is a matter of spelling."""
    spelt = {"mr": "mister", "mrs": "missus"}
    words = re.sub(r"[^a-z' ]+", " ", text.lower().replace("-", " ")).split()
    return " ".join(spelt.get(word, word) for word in words)
