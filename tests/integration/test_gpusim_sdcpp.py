"""The simulated sd-server over HTTP: the manners of the real one, the bad ones too."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from PIL import Image

from services.gpusim.control import Control
from services.gpusim.gpu import PROMPT_KEPT
from services.gpusim.main import running
from services.gpusim.model import Fault, Options, Outcome, ProfileName
from services.gpusim.profiles import sdcpp_jobs

INSTANT = Options(profile=ProfileName.SDCPP, step_ms=0)


class SdServer:
    """A client that knows the routes."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self.session = session
        self.url = url
        self.control = Control(session, url)

    # Any: a JSON body of whatever shape the test asks for
    async def call(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.url + path, **body) as answer:
            return answer.status, await answer.json(content_type=None)

    async def submit(self, **members: object) -> str:
        status, accepted = await self.call("POST", "/sdcpp/v1/img_gen", json=members)
        assert status == 202
        return str(accepted["id"])

    # Any: as above
    async def job(self, job_id: str) -> Any:
        status, job = await self.call("GET", f"/sdcpp/v1/jobs/{job_id}")
        assert status == 200
        return job

    # Any: as above
    async def reached(self, job_id: str, *statuses: str) -> Any:
        async with asyncio.timeout(10):
            while (job := await self.job(job_id))["status"] not in statuses:
                pass
        return job


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[SdServer]:
    async with running(INSTANT) as url, ClientSession() as session:
        yield SdServer(session, url)


def image_of(encoded: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    image.load()
    return image


async def test_a_native_job_is_accepted_polled_and_completed(server: SdServer) -> None:
    status, accepted = await server.call(
        "POST",
        "/sdcpp/v1/img_gen",
        json={
            "prompt": "a fox",
            "width": 128,
            "height": 64,
            "seed": 7,
            "sample_params": {"sample_steps": 4},
        },
    )
    assert status == 202
    assert accepted["status"] == "queued"
    assert accepted["poll_url"] == f"/sdcpp/v1/jobs/{accepted['id']}"
    job = await server.reached(accepted["id"], "completed")
    assert job["created"] <= job["started"] <= job["completed"]
    assert job["error"] is None
    assert job["queue_position"] == 0
    assert image_of(job["result"]["images"][0]["b64_json"]).size == (128, 64)
    assert [(each.prompt, each.seed, each.outcome) for each in await server.control.jobs()] == [
        ("a fox", 7, Outcome.DONE)
    ]


async def test_a_batch_gives_as_many_different_images(server: SdServer) -> None:
    job_id = await server.submit(prompt="a fox", width=64, height=64, seed=7, batch_count=3)
    job = await server.reached(job_id, "completed")
    images = [each["b64_json"] for each in job["result"]["images"]]
    assert [each["index"] for each in job["result"]["images"]] == [0, 1, 2]
    assert len(set(images)) == 3


async def test_an_empty_object_is_a_job_with_defaults(server: SdServer) -> None:
    job = await server.reached(await server.submit(), "completed")
    assert image_of(job["result"]["images"][0]["b64_json"]).size == (512, 512)


async def test_json_that_cannot_be_parsed_is_a_500(server: SdServer) -> None:
    for path in ("/sdcpp/v1/img_gen", "/v1/images/generations"):
        status, answer = await server.call("POST", path, data=b"{")
        assert status == 500
        assert answer["error"] == "server_error"
        assert "json.exception" in answer["message"]


async def test_there_is_no_health_route_and_the_models_are_the_probe(server: SdServer) -> None:
    async with server.session.get(f"{server.url}/health") as answer:
        assert (answer.status, await answer.read()) == (404, b"")
    status, models = await server.call("GET", "/v1/models")
    assert (status, models["data"][0]["id"]) == (200, "sd-cpp-local")


async def test_capabilities_say_what_can_be_cancelled(server: SdServer) -> None:
    _, capabilities = await server.call("GET", "/sdcpp/v1/capabilities")
    assert capabilities["features_by_mode"]["img_gen"]["cancel_queued"] is True
    assert capabilities["features_by_mode"]["img_gen"]["cancel_generating"] is False
    assert capabilities["limits"]["max_queue_size"] == 64
    assert capabilities["model"]["stem"] == "qwen-image-Q8_0"


async def test_a_queued_job_can_be_cancelled_and_one_that_generates_cannot(server: SdServer) -> None:
    await server.control.script(Fault.HANG)
    first, second, third = [await server.submit(prompt=str(number)) for number in range(3)]
    await server.reached(first, "generating")
    assert (await server.job(third))["queue_position"] == 2
    status, answer = await server.call("POST", f"/sdcpp/v1/jobs/{first}/cancel")
    assert status == 409
    assert answer["error"] == "job is currently generating and cannot be interrupted yet"
    status, answer = await server.call("POST", f"/sdcpp/v1/jobs/{second}/cancel")
    assert (status, answer["status"], answer["error"]["code"]) == (200, "cancelled", "cancelled")
    await server.control.clear()
    await server.reached(third, "completed")
    status, answer = await server.call("POST", f"/sdcpp/v1/jobs/{third}/cancel")
    assert (status, answer["status"]) == (200, "completed")
    stats = await server.control.stats()
    assert (stats.jobs.done, stats.jobs.cancelled, stats.jobs.started) == (2, 1, 2)
    assert stats.max_waiting == 3


async def test_an_unknown_job_is_a_404(server: SdServer) -> None:
    for method, path in (("GET", "/sdcpp/v1/jobs/job_1"), ("POST", "/sdcpp/v1/jobs/job_1/cancel")):
        assert await server.call(method, path) == (404, {"error": "job not found"})


async def test_a_finished_job_expires_after_the_retention_time() -> None:
    options = Options(profile=ProfileName.SDCPP, step_ms=0, retention_s=0)
    async with running(options) as url, ClientSession() as session:
        server = SdServer(session, url)
        job_id = await server.submit(prompt="a fox", width=64, height=64)
        async with asyncio.timeout(10):
            while (answer := await server.call("GET", f"/sdcpp/v1/jobs/{job_id}"))[0] == 200:
                pass
        assert answer == (410, {"error": "job expired"})
        cancelled = await server.call("POST", f"/sdcpp/v1/jobs/{job_id}/cancel")
        assert cancelled == (410, {"error": "job expired"})


async def test_of_too_many_finished_jobs_the_oldest_expire_early(
    server: SdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdcpp_jobs, "MAX_FINISHED", 2)
    job_ids = [await server.submit(prompt=str(number), width=64, height=64) for number in range(4)]
    await server.reached(job_ids[-1], "completed")
    answers = [(await server.call("GET", f"/sdcpp/v1/jobs/{job_id}"))[0] for job_id in job_ids]
    assert answers == [410, 410, 200, 200]


async def test_of_a_long_prompt_only_the_beginning_is_remembered(server: SdServer) -> None:
    await server.submit(prompt="x" * 100_000)
    [job] = await server.control.jobs()
    assert job.prompt == "x" * PROMPT_KEPT


async def test_the_queue_is_full_at_64_pending_jobs(server: SdServer) -> None:
    await server.control.script(Fault.HANG)
    for _ in range(64):
        await server.submit(width=64, height=64)
    answer = await server.call("POST", "/sdcpp/v1/img_gen", json={})
    assert answer == (429, {"error": "job queue is full"})
    stats = await server.control.stats()
    assert (stats.jobs.received, stats.jobs.refused, stats.max_waiting) == (65, 1, 64)


async def test_two_calls_of_the_openai_route_give_the_same_image(server: SdServer) -> None:
    answers = [
        await server.call("POST", "/v1/images/generations", json={"prompt": "a fox", "size": "64x64"})
        for _ in range(2)
    ]
    first, second = [answer["data"][0]["b64_json"] for _, answer in answers]
    assert first == second
    assert [job.seed for job in await server.control.jobs()] == [42, 42]


async def test_a_tag_in_the_prompt_rules_the_openai_route(server: SdServer) -> None:
    prompt = 'a fox<sd_cpp_extra_args>{"seed":7,"width":192}</sd_cpp_extra_args>'
    status, answer = await server.call(
        "POST", "/v1/images/generations", json={"prompt": prompt, "size": "64x64"}
    )
    assert status == 200
    assert answer["output_format"] == "png"
    assert image_of(answer["data"][0]["b64_json"]).size == (192, 64)
    assert [job.seed for job in await server.control.jobs()] == [7]


async def test_a_client_that_goes_away_does_not_free_the_gpu(server: SdServer) -> None:
    await server.control.script(Fault.HANG)
    call = asyncio.ensure_future(
        server.call("POST", "/v1/images/generations", json={"prompt": "a fox", "size": "64x64"})
    )
    async with asyncio.timeout(10):
        while not (await server.control.stats()).running:
            pass
        call.cancel()
        await asyncio.wait([call])
        waiting = await server.submit(prompt="next", width=64, height=64)
        assert (await server.reached(waiting, "generating"))["result"] is None
        assert [job.outcome for job in await server.control.jobs()] == [Outcome.RUNNING, Outcome.WAITING]
        await server.control.clear()
        await server.reached(waiting, "completed")
    stats = await server.control.stats()
    assert (stats.jobs.done, stats.jobs.interrupted) == (2, 0)
