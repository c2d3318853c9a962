"""Models that the simulated GPU loads: it takes a while, inside the turn of the job that needs them."""

import asyncio

import pytest
from aiohttp import ClientSession
from msgspec.structs import replace

from services.gpusim.control import Control
from services.gpusim.main import running
from services.gpusim.model import Options, ProfileName

THREE = Options(profile=ProfileName.OPENAI, step_ms=0, models=("a", "b", "c"))


async def draw(session: ClientSession, url: str, model: str | None) -> None:
    body = {"prompt": "a fox", "size": "64x64", "model": model, "num_inference_steps": 1}
    async with session.post(f"{url}/v1/images/generations", json=body, raise_for_status=True):
        pass


@pytest.mark.parametrize(
    ("keeps", "loads", "loaded"), [(1, 4, ("a",)), (2, 1, ("a", "c")), (3, 0, ("a", "c", "b"))]
)
async def test_a_job_loads_its_model_unless_it_is_among_those_that_were_used_last(
    keeps: int, loads: int, loaded: tuple[str, ...]
) -> None:
    async with running(replace(THREE, keeps=keeps)) as url, ClientSession() as session:
        control = Control(session, url)
        assert (await control.stats()).loaded == ("a", "b", "c")[:keeps]
        for model in ("a", "b", "b", "a", "c", "a"):
            await draw(session, url, model)
        stats = await control.stats()
    assert (stats.loads, stats.loaded) == (loads, loaded)


async def test_a_job_that_names_no_model_or_an_unknown_one_takes_the_first() -> None:
    async with running(THREE) as url, ClientSession() as session:
        control = Control(session, url)
        for model in (None, "unknown"):
            await draw(session, url, model)
        assert [job.model for job in await control.jobs()] == ["a", "a"]
        assert (await control.stats()).loads == 0


async def test_loading_takes_its_time_in_the_turn_of_the_job() -> None:
    async with running(replace(THREE, load_s=0.2)) as url, ClientSession() as session:
        control = Control(session, url)
        await draw(session, url, "a")
        assert (await control.stats()).busy_s < 0.2
        await draw(session, url, "b")
        assert (await control.stats()).busy_s >= 0.2


async def test_a_job_that_leaves_while_its_model_is_loaded_leaves_the_old_one_there() -> None:
    async with running(replace(THREE, load_s=60)) as url, ClientSession() as session:
        control = Control(session, url)
        call = asyncio.ensure_future(draw(session, url, "b"))
        async with asyncio.timeout(10):
            while not (await control.stats()).running:
                pass
            call.cancel()
            while (await control.stats()).running:
                pass
        stats = await control.stats()
        assert (stats.jobs.interrupted, stats.loads, stats.loaded) == (1, 0, ("a",))
        await draw(session, url, "a")


async def test_a_web_ui_that_loads_a_model_says_that_its_job_has_not_begun() -> None:
    options = replace(THREE, profile=ProfileName.A1111, load_s=60)
    async with running(options) as url, ClientSession() as session:
        body = {"prompt": "a fox", "override_settings": {"sd_model_checkpoint": "b"}}
        call = asyncio.ensure_future(session.post(f"{url}/sdapi/v1/txt2img", json=body))
        async with asyncio.timeout(10):
            while True:
                async with session.get(f"{url}/sdapi/v1/progress") as answer:
                    seen = await answer.json()
                if seen["state"]["job_count"] == -1:
                    break
        assert seen["progress"] == 0.01
        call.cancel()
        await asyncio.wait([call])
