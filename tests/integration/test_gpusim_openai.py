"""The simulated vLLM-Omni image server over HTTP."""

import asyncio
import base64
import io
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from msgspec.structs import replace
from PIL import Image

from services.gpusim.control import Control
from services.gpusim.main import running, serve
from services.gpusim.model import Fault, Options, Outcome, ProfileName

INSTANT = Options(profile=ProfileName.OPENAI, step_ms=0)
FOX = {"prompt": "a fox", "size": "96x64", "seed": 7, "num_inference_steps": 4}


class ImageServer:
    """A client that knows the routes."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self.control = Control(session, url)

    # Any: a JSON answer of whatever shape the test asks for
    async def generate(self, **members: object) -> tuple[int, Any]:
        async with self.session.post(f"{self.url}/v1/images/generations", json=members) as answer:
            return answer.status, await answer.json()


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[ImageServer]:
    async with running(INSTANT) as url, ClientSession() as session:
        yield ImageServer(session, url)


def size_of(content: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image.size


async def test_an_image_comes_back_in_base64(server: ImageServer) -> None:
    status, answer = await server.generate(**FOX)
    assert status == 200
    assert answer["size"] == "96x64"
    [datum] = answer["data"]
    assert (datum["url"], datum["revised_prompt"]) == (None, None)
    assert size_of(base64.b64decode(datum["b64_json"])) == (96, 64)


async def test_the_seed_decides_and_without_one_the_server_draws(server: ImageServer) -> None:
    same = [(await server.generate(**FOX))[1]["data"] for _ in range(2)]
    drawn = [(await server.generate(prompt="a fox", size="64x64"))[1]["data"] for _ in range(2)]
    assert same[0] == same[1]
    assert drawn[0] != drawn[1]


async def test_several_images_differ(server: ImageServer) -> None:
    _, answer = await server.generate(**FOX, n=2)
    assert len({datum["b64_json"] for datum in answer["data"]}) == 2


async def test_one_file_is_an_image_and_several_are_an_archive(server: ImageServer) -> None:
    url = f"{server.url}/v1/images/generations"
    async with server.session.post(url, json={**FOX, "response_format": "file"}) as answer:
        assert answer.content_type == "image/png"
        assert size_of(await answer.read()) == (96, 64)
    async with server.session.post(url, json={**FOX, "response_format": "file", "n": 2}) as answer:
        assert answer.content_type == "application/zip"
        with zipfile.ZipFile(io.BytesIO(await answer.read())) as archive:
            assert archive.namelist() == ["image_0.png", "image_1.png"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"response_format": "url"},
        {"n": 0},
        {"n": 11},
        {"num_inference_steps": 201},
        {"size": "large"},
        {"prompt": None},
        {"seed": "seven"},
    ],
)
async def test_a_wrong_member_is_a_422_with_a_list_of_details(
    server: ImageServer, wrong: dict[str, object]
) -> None:
    status, answer = await server.generate(**{**FOX, **wrong})
    assert status == 422
    assert answer["detail"][0]["loc"][0] == "body"
    assert (await server.control.stats()).jobs.received == 0


async def test_an_impossible_size_is_a_400(server: ImageServer) -> None:
    status, answer = await server.generate(prompt="a fox", size="99999x64")
    assert (status, answer) == (400, {"detail": "Invalid size: 99999x64"})


async def test_another_model_is_answered_all_the_same(server: ImageServer) -> None:
    assert (await server.generate(**FOX, model="another"))[0] == 200


async def test_health_models_and_unknown_routes(server: ImageServer) -> None:
    async with server.session.get(f"{server.url}/health") as answer:
        assert await answer.json() == {"status": "healthy"}
    async with server.session.get(f"{server.url}/v1/models") as answer:
        assert [card["id"] for card in (await answer.json())["data"]] == ["Qwen/Qwen-Image"]
    async with server.session.get(f"{server.url}/sdcpp/v1/capabilities") as answer:
        assert (answer.status, await answer.json()) == (404, {"detail": "Not Found"})


async def test_a_client_that_goes_away_frees_the_gpu(server: ImageServer) -> None:
    await server.control.script(Fault.HANG)
    running_call = asyncio.ensure_future(server.generate(**FOX))
    async with asyncio.timeout(10):
        while not (await server.control.stats()).running:
            pass
        waiting_call = asyncio.ensure_future(server.generate(**FOX))
        while not (await server.control.stats()).waiting:
            pass
        waiting_call.cancel()
        while (await server.control.stats()).waiting:
            pass
        running_call.cancel()
        while (await server.control.stats()).running:
            pass
        await asyncio.wait([running_call, waiting_call])
    assert [job.outcome for job in await server.control.jobs()] == [Outcome.INTERRUPTED, Outcome.CANCELLED]
    assert (await server.generate(**FOX))[0] == 200


async def test_jobs_wait_for_each_other_and_the_server_counts_how_many(server: ImageServer) -> None:
    await server.control.script(Fault.HANG)
    calls = [asyncio.ensure_future(server.generate(**FOX)) for _ in range(3)]
    async with asyncio.timeout(10):
        while (await server.control.stats()).waiting != 2:
            pass
        await server.control.clear()
        assert [status for status, _ in await asyncio.gather(*calls)] == [200, 200, 200]
    stats = await server.control.stats()
    assert (stats.max_waiting, stats.jobs.done, stats.running, stats.waiting) == (3, 3, 0, 0)


async def test_the_gpu_is_busy_for_the_time_of_the_steps() -> None:
    options = replace(INSTANT, step_ms=640, sigma=0)
    async with running(options) as url, ClientSession() as session:
        server = ImageServer(session, url)
        await server.generate(prompt="a fox", size="64x64", num_inference_steps=20)
        assert (await server.control.stats()).busy_s >= 0.2


async def test_a_key_is_asked_for_on_the_api_and_not_for_health() -> None:
    async with running(replace(INSTANT, api_key="secret")) as url, ClientSession() as session:
        server = ImageServer(session, url)
        assert await server.generate(**FOX) == (401, {"error": "Unauthorized"})
        async with session.get(f"{url}/health") as answer:
            assert answer.status == 200
        session.headers["Authorization"] = "Bearer secret"
        assert (await server.generate(**FOX))[0] == 200
        assert (await server.control.stats()).jobs.done == 1


async def test_a_share_of_the_jobs_fails_by_chance_alone() -> None:
    async with running(replace(INSTANT, fail_rate=0.5)) as url, ClientSession() as session:
        server = ImageServer(session, url)
        statuses = [(await server.generate(**FOX))[0] for _ in range(20)]
        assert set(statuses) == {200, 500}
        assert (await server.control.stats()).jobs.failed == statuses.count(500)


async def test_nothing_listens_until_the_server_has_started() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with running(replace(INSTANT, startup_s=0.1)) as url, ClientSession() as session:
        assert loop.time() - began >= 0.1
        assert (await ImageServer(session, url).generate(**FOX))[0] == 200


async def test_a_port_that_is_taken_is_an_error_at_once(server: ImageServer) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        await serve(replace(INSTANT, port=port))
