"""The simulated web UI of AUTOMATIC1111 over HTTP, and KoboldCpp with a part of its routes."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession
from msgspec.structs import replace
from PIL import Image

from services.gpusim.control import Control
from services.gpusim.main import running
from services.gpusim.model import Fault, Options, Outcome, ProfileName

INSTANT = Options(profile=ProfileName.A1111, step_ms=0, models=("xl", "flux"))
STEADY = replace(INSTANT, step_ms=6400, sigma=0)
"""A step of a picture of 64x64 takes 0.1 s."""
FOX = {"prompt": "a fox", "width": 64, "height": 64, "seed": 7, "steps": 4}


class WebUi:
    """A client that knows the routes."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self.control = Control(session, url)

    # Any: a JSON answer of whatever shape the test asks for
    async def ask(self, method: str, route: str, body: object = None) -> tuple[int, Any]:
        url = f"{self.url}/sdapi/v1/{route}"
        async with self.session.request(method, url, json=body) as answer:
            return answer.status, await answer.json()

    async def draw(self, **members: object) -> tuple[int, Any]:
        return await self.ask("POST", "txt2img", members)

    async def progress(self) -> Any:
        return (await self.ask("GET", "progress?skip_current_image=true"))[1]

    async def drawing(self, step: int) -> bool:
        """Say whether that step of a job has been taken."""
        state = (await self.progress())["state"]
        return bool(state["job_count"] > 0 and state["sampling_step"] >= step)


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[WebUi]:
    async with running(INSTANT) as url, ClientSession() as session:
        yield WebUi(session, url)


@pytest.fixture(name="steady")
async def _steady() -> AsyncIterator[WebUi]:
    async with running(STEADY) as url, ClientSession() as session:
        yield WebUi(session, url)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            pass


def opened(image: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(image)))
    picture.load()
    return picture


async def test_a_picture_comes_with_what_was_asked_for_and_a_description_in_a_string(server: WebUi) -> None:
    status, answer = await server.draw(**FOX)
    assert status == 200
    (image,) = answer["images"]
    assert opened(image).size == (64, 64)
    assert answer["parameters"] == FOX
    info = json.loads(answer["info"])
    assert (info["seed"], info["all_seeds"], info["sd_model_name"]) == (7, [7], "xl")


async def test_what_is_not_said_has_the_defaults_of_the_server(server: WebUi) -> None:
    _, answer = await server.draw(prompt="a fox", width=64, height=64)
    info = json.loads(answer["info"])
    assert (info["steps"], info["cfg_scale"], info["sampler_name"]) == (50, 7.0, "Euler")
    _, another = await server.draw(prompt="a fox", width=64, height=64)
    assert json.loads(another["info"])["seed"] != info["seed"]


async def test_batches_and_iterations_multiply(server: WebUi) -> None:
    _, answer = await server.draw(**FOX, n_iter=2, batch_size=2)
    assert len(set(answer["images"])) == 4
    assert json.loads(answer["info"])["all_seeds"] == [7, 8, 9, 10]


@pytest.mark.parametrize("wrong", [{"steps": "many"}, {"override_settings": 7}, {"prompt": ["a", "fox"]}])
async def test_a_wrong_type_is_a_422(server: WebUi, wrong: dict[str, object]) -> None:
    status, answer = await server.draw(**{**FOX, **wrong})
    assert status == 422
    assert answer["detail"][0]["loc"] == ["body"]


async def test_an_unknown_sampler_is_a_404_in_the_manner_of_its_errors(server: WebUi) -> None:
    status, answer = await server.draw(**FOX, sampler_name="telepathy")
    assert status == 404
    assert answer == {"error": "HTTPException", "detail": "Sampler not found", "body": "", "errors": ""}
    assert (await server.draw(**FOX, sampler_name="Euler a"))[0] == 200


async def test_a_picture_that_cannot_be_drawn_is_a_500(server: WebUi) -> None:
    status, answer = await server.draw(**{**FOX, "width": 100_000})
    assert (status, answer["error"]) == (500, "RuntimeError")


async def test_an_idle_server_says_so(server: WebUi) -> None:
    progress = await server.progress()
    assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)


async def test_where_a_task_stands_is_asked_for_by_its_id(server: WebUi) -> None:
    async def standing(task_id: str) -> tuple[bool, bool, bool]:
        body = {"id_task": task_id}
        async with server.session.post(f"{server.url}/internal/progress", json=body) as answer:
            said = await answer.json()
        return said["active"], said["queued"], said["completed"]

    async def waits() -> int:
        return (await server.control.stats()).waiting

    await server.control.script(Fault.HANG)
    first = asyncio.ensure_future(server.draw(**FOX, force_task_id="task-1"))
    await until(lambda: server.drawing(0))
    second = asyncio.ensure_future(server.draw(**FOX, force_task_id="task-2"))
    await until(waits)
    assert await standing("task-1") == (True, False, False)
    assert await standing("task-2") == (False, True, False)
    assert await standing("task-3") == (False, False, False)
    await server.control.clear()
    await asyncio.wait([first, second])
    assert await standing("task-1") == (False, False, True)


async def test_progress_grows_with_the_steps(steady: WebUi) -> None:
    call = asyncio.ensure_future(steady.draw(**FOX, force_task_id="task-1"))
    await until(lambda: steady.drawing(2))
    seen = await steady.progress()
    assert seen["progress"] == pytest.approx(0.51)
    assert seen["current_task"] is None
    assert seen["state"]["sampling_steps"] == 4
    assert seen["eta_relative"] > 0
    await call


async def test_what_is_being_drawn_is_shown_as_of_every_tenth_step_unless_it_is_skipped(
    steady: WebUi,
) -> None:
    assert (await steady.ask("GET", "progress"))[1]["current_image"] is None
    call = asyncio.ensure_future(steady.draw(**{**FOX, "width": 32, "steps": 40}))
    await until(lambda: steady.drawing(1))
    assert (await steady.ask("GET", "progress"))[1]["current_image"] is None, "of nothing yet"
    await until(lambda: steady.drawing(12))
    assert (await steady.progress())["current_image"] is None
    shown = (await steady.ask("GET", "progress?skip_current_image=false"))[1]["current_image"]
    assert opened(shown).size == (8, 8)
    assert (await steady.ask("GET", "progress"))[1]["current_image"] == shown
    await until(lambda: steady.drawing(22))
    assert (await steady.ask("GET", "progress"))[1]["current_image"] != shown
    await call


async def test_live_previews_may_be_off() -> None:
    async with running(replace(STEADY, previews=False)) as url, ClientSession() as session:
        server = WebUi(session, url)
        call = asyncio.ensure_future(server.draw(**{**FOX, "width": 32, "steps": 16}))
        await until(lambda: server.drawing(11))
        assert (await server.ask("GET", "progress"))[1]["current_image"] is None
        await call


async def test_an_interruption_strikes_what_runs_which_succeeds_with_half_a_picture(steady: WebUi) -> None:
    call = asyncio.ensure_future(steady.draw(**FOX))
    await until(lambda: steady.drawing(1))
    waiting = asyncio.ensure_future(steady.draw(**FOX))
    assert await steady.ask("POST", "interrupt") == (200, {})
    (half,) = (await call)[1]["images"]
    (whole,) = (await waiting)[1]["images"]
    assert opened(half).size == opened(whole).size
    assert half != whole
    assert [job.outcome for job in await steady.control.jobs()] == [Outcome.INTERRUPTED, Outcome.DONE]


async def test_an_interruption_of_nothing_harms_nobody(server: WebUi) -> None:
    assert await server.ask("POST", "interrupt") == (200, {})
    assert await server.ask("POST", "skip") == (200, None)
    await server.draw(**FOX)
    assert [job.outcome for job in await server.control.jobs()] == [Outcome.DONE]


async def test_a_client_that_goes_away_frees_nothing(server: WebUi) -> None:
    await server.control.script(Fault.HANG)
    call = asyncio.ensure_future(server.draw(**FOX))

    async def runs() -> int:
        return (await server.control.stats()).running

    await until(runs)
    call.cancel()
    await asyncio.wait([call])
    assert await runs() == 1
    await server.control.clear()
    assert (await server.draw(**FOX))[0] == 200
    assert (await server.control.stats()).jobs.done == 2


async def test_a_job_may_name_its_model_and_the_options_name_that_of_the_others(server: WebUi) -> None:
    _, listed = await server.ask("GET", "sd-models")
    assert [(each["model_name"], each["title"]) for each in listed] == [
        ("xl", "xl.safetensors"),
        ("flux", "flux.safetensors"),
    ]
    await server.draw(**FOX, override_settings={"sd_model_checkpoint": "flux"})
    await server.draw(**FOX, override_settings={"sd_model_checkpoint": "not there"})
    assert await server.ask("POST", "options", {"sd_model_checkpoint": "flux.safetensors"}) == (200, None)
    await server.draw(**FOX)
    assert [job.model for job in await server.control.jobs()] == ["flux", "xl", "flux"]
    assert (await server.ask("GET", "options"))[1]["sd_model_checkpoint"] == "flux.safetensors"
    status, answer = await server.ask("POST", "options", {"sd_model_checkpoint": "not there"})
    assert (status, answer["errors"]) == (500, "model 'not there' not found")


async def test_it_has_its_samplers_and_no_routes_of_others(server: WebUi) -> None:
    assert "Euler" in {each["name"] for each in (await server.ask("GET", "samplers"))[1]}
    async with server.session.get(f"{server.url}/v1/models") as answer:
        assert (answer.status, await answer.json()) == (404, {"detail": "Not Found"})


async def test_a_key_with_a_colon_is_asked_for_by_http_basic() -> None:
    async with running(replace(INSTANT, api_key="me:secret")) as url, ClientSession() as session:
        server = WebUi(session, url)
        status, answer = await server.draw(**FOX)
        assert (status, answer["detail"]) == (401, "Incorrect username or password")
        session.headers["Authorization"] = "Basic bWU6c2VjcmV0"  # me:secret
        assert (await server.draw(**FOX))[0] == 200


async def test_koboldcpp_has_one_model_no_description_and_neither_progress_nor_interruption() -> None:
    kobold = replace(INSTANT, profile=ProfileName.KOBOLDCPP)
    async with running(kobold) as url, ClientSession() as session:
        server = WebUi(session, url)
        status, answer = await server.draw(**FOX, sampler_name="whatever")
        assert (status, answer["info"], len(answer["images"])) == (200, "", 1)
        assert [each["model_name"] for each in (await server.ask("GET", "sd-models"))[1]] == ["xl"]
        assert (await server.ask("GET", "progress"))[0] == 404
        assert (await server.ask("POST", "interrupt"))[0] == 404
        async with session.get(f"{url}/v1/models") as listed:
            assert (await listed.json())["data"][0]["owned_by"] == "koboldcpp"
