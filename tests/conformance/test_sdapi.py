"""What is particular to servers with `/sdapi/v1`: progress, an interruption for all, KoboldCpp."""

import asyncio

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from schemas import previews
from schemas.ids import TaskId
from schemas.registry import Protocol
from schemas.requests import ImageRequest, Kind
from services.dispatcher.backends import sdapi
from services.dispatcher.backends.base import Failed, Finished, Misconfigured, Previewed, Progressed, Ready
from services.dispatcher.backends.detect import adapter_for, recognise
from services.gpusim.main import running
from services.gpusim.model import Options, Outcome, ProfileName
from tests.conformance.rigs import (
    SimulatorRig,
    backend_at,
    eventually,
    failed,
    finished,
    image_job,
    job,
    read,
    simulated,
)
from tests.conformance.servers import serving

LONG = ImageRequest(prompt="a red fox", seed=7, width=128, height=64, steps=40)
RED = replace(LONG, seed=8)
UNHURRIED_MS = 6400.0
"""A step of the jobs here takes 0.2 s, and a picture four of them."""


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look far more often than once a second, which a test would wait for."""
    monkeypatch.setattr(sdapi, "LOOK_EVERY_S", 0.02)


@pytest.mark.parametrize("n", [1, 2])
async def test_progress_is_what_the_server_says_of_all_pictures(
    session: aiohttp.ClientSession, n: int
) -> None:
    async with simulated(session, Protocol.SDAPI, step_ms=UNHURRIED_MS / 2) as rig:
        reports = await read(rig.adapter.call(job(rig, n=n)))
    told = [report for report in reports if isinstance(report, Progressed)]
    assert len(told) == len(reports) - 1
    assert {report.steps for report in told} == {4 * n}
    assert max(report.step or 0 for report in told) > 4 * (n - 1), "the last picture's steps count on"
    fractions = [report.fraction for report in told]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1


async def test_what_is_being_drawn_is_seen_at_every_second_look_and_changes(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.SDAPI, step_ms=UNHURRIED_MS / 8) as rig:
        reports = await read(rig.adapter.call(replace(job(rig), request=LONG)))
    shown = [report.image for report in reports if isinstance(report, Previewed)]
    assert {previews.media_type(image) for image in shown} == {"image/png"}
    assert len(set(shown)) == 3, "after each ten of its steps but the last"
    assert len(shown) <= sum(isinstance(report, Progressed) for report in reports) / 2


async def test_a_web_ui_that_shows_nothing_gives_no_preview(session: aiohttp.ClientSession) -> None:
    options = Options(profile=ProfileName.A1111, step_ms=UNHURRIED_MS / 16, previews=False)
    async with running(options) as url:
        adapter = adapter_for(session, backend_at(url, Protocol.SDAPI))
        reports = await read(adapter.call(replace(image_job(None), request=LONG)))
    assert {type(report) for report in reports} == {Progressed, Finished}


async def test_what_another_draws_is_no_preview_of_ours(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.SDAPI, step_ms=UNHURRIED_MS / 16) as rig:
        other = replace(job(rig), task_id=TaskId("0199d4e8-7c1a-7000-8000-00000000000a"), request=LONG)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(read(rig.adapter.call(other)))
            await rig.held()
            second = group.create_task(read(rig.adapter.call(replace(job(rig), request=RED))))
    theirs, ours = (
        {report.image for report in call.result() if isinstance(report, Previewed)}
        for call in (first, second)
    )
    assert theirs
    assert ours
    assert not theirs & ours


async def test_a_stop_interrupts_the_job_and_half_a_picture_is_no_result(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.SDAPI, step_ms=UNHURRIED_MS) as rig:
        call = rig.adapter.call(job(rig, n=3))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(call))
            await rig.held()
            await call.stop()
        assert ending.result().error.code == "cancelled"
        (only,) = await rig.control.jobs()
        assert only.outcome is Outcome.INTERRUPTED


async def test_a_stop_spares_the_job_of_another_and_reaches_its_own_when_that_runs(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.SDAPI, step_ms=UNHURRIED_MS) as rig:
        other = replace(job(rig), task_id=TaskId("0199d4e8-7c1a-7000-8000-00000000000a"))
        async with asyncio.TaskGroup() as group:
            first = group.create_task(finished(rig.adapter.call(other)))
            await rig.held()
            call = rig.adapter.call(job(rig))
            second = group.create_task(failed(call))
            await eventually(lambda: waits(rig))
            await call.stop()
        assert first.result().outputs
        assert second.result().error.code == "cancelled"
        outcomes = [each.outcome for each in await rig.control.jobs()]
    assert outcomes == [Outcome.DONE, Outcome.INTERRUPTED]


async def test_a_lost_task_has_left_the_gpu_when_its_own_picture_is_done_whatever_else_runs(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.SDAPI) as rig:
        mine = job(rig)
        other = replace(mine, task_id=TaskId("0199d4e8-7c1a-7000-8000-00000000000a"))
        assert await rig.adapter.idle(None, mine.task_id) is True, "nothing runs"
        async with asyncio.TaskGroup() as group:
            await rig.hold()
            first = group.create_task(finished(rig.adapter.call(mine)))
            await rig.held()
            assert await rig.adapter.idle(None, mine.task_id) is False
            assert await rig.adapter.idle(None, other.task_id) is None, "it may not know of it"
            await rig.hold()
            second = group.create_task(finished(rig.adapter.call(other)))
            await eventually(lambda: waits(rig))
            assert await rig.adapter.idle(None, other.task_id) is False
            await rig.release()
            await first
            await rig.held()
            assert await rig.adapter.idle(None, mine.task_id) is True
            await rig.release()
            await second


async def test_between_two_pictures_it_is_asked_whether_the_gpu_is_still_ours(
    session: aiohttp.ClientSession,
) -> None:
    async def no() -> bool:
        return False

    async with simulated(session, Protocol.SDAPI) as rig:
        ended = await failed(rig.adapter.call(replace(job(rig, n=3), may_go_on=no)))
        assert ended.error.code == "lease_lost"
        assert await rig.received() == 1


async def waits(rig: SimulatorRig) -> bool:
    return (await rig.control.stats()).waiting == 1


async def test_each_picture_is_a_request_of_its_own(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.SDAPI) as rig:
        await finished(rig.adapter.call(job(rig, seed=40, n=3)))
        assert [each.seed for each in await rig.control.jobs()] == [40, 41, 42]


async def test_a_job_names_its_model_and_the_server_loads_it(session: aiohttp.ClientSession) -> None:
    options = Options(profile=ProfileName.A1111, step_ms=0, models=("xl", "flux"))
    async with running(options) as url:
        adapter = adapter_for(session, backend_at(url, Protocol.SDAPI))
        assert await adapter.probe(2.0) == Ready(("xl", "flux"))
        await finished(adapter.call(image_job("flux")))
        await finished(adapter.call(image_job(None)))
        async with session.get(f"{url}/_sim/jobs") as answer:
            jobs = (await answer.json())["jobs"]
    assert [each["model"] for each in jobs] == ["flux", "xl"]


async def test_a_key_with_a_colon_is_user_and_password(session: aiohttp.ClientSession) -> None:
    async with running(Options(profile=ProfileName.A1111, step_ms=0, api_key="me:s3cret")) as url:
        right = adapter_for(session, backend_at(url, Protocol.SDAPI, api_key="me:s3cret"))
        assert isinstance(await right.probe(2.0), Ready)
        await finished(right.call(image_job(None)))
        wrong = adapter_for(session, backend_at(url, Protocol.SDAPI, api_key="me:wrong"))
        assert isinstance(await wrong.probe(2.0), Misconfigured)
        assert (await failed(wrong.call(image_job(None)))).error.code == "access_denied"


async def test_koboldcpp_tells_no_progress_and_is_waited_for(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.SDAPI, profile=ProfileName.KOBOLDCPP) as rig:
        await rig.hold()
        call = rig.adapter.call(job(rig))
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read(call))
            await rig.held()
            assert await rig.adapter.idle(None) is None
            await call.stop()
            await eventually(rig.busy)
            assert not reading.done()
            await rig.release()
        (ended,) = reading.result()
        assert isinstance(ended, Failed)
        assert ended.error.code == "cancelled"
        assert await rig.adapter.idle(None) is None
        await finished(rig.adapter.call(job(rig)))


async def test_koboldcpp_is_not_taken_for_the_other_servers_whose_routes_it_has(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.SDAPI, profile=ProfileName.KOBOLDCPP) as rig:
        assert await recognise(session, backend_at(rig.url, None), 2.0) is Protocol.SDAPI


async def test_an_sd_server_is_asked_by_its_own_routes_although_it_has_these(
    session: aiohttp.ClientSession,
) -> None:
    async def both(request: web.Request) -> web.Response:
        native = request.path == "/sdcpp/v1/capabilities"
        return web.json_response({"model": {"name": "m"}} if native else [{"name": "euler"}])

    async with serving(both) as url:
        assert await recognise(session, backend_at(url, None, kind=Kind.IMAGE), 2.0) is Protocol.SDCPP


async def test_a_server_that_answers_something_else_everywhere_is_misconfigured(
    session: aiohttp.ClientSession,
) -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    async with serving(page) as url:
        assert isinstance(
            await adapter_for(session, backend_at(url, Protocol.SDAPI)).probe(2.0), Misconfigured
        )


async def test_a_server_that_lists_no_models_is_ready_without_names(session: aiohttp.ClientSession) -> None:
    async def bare(request: web.Request) -> web.Response:
        if request.path.endswith("samplers"):
            return web.json_response([{"name": "Euler"}])
        return web.Response(status=404)

    async with serving(bare) as url:
        assert await adapter_for(session, backend_at(url, Protocol.SDAPI)).probe(2.0) == Ready()


async def test_hanging_up_ends_a_job_where_the_operator_says_so(session: aiohttp.ClientSession) -> None:
    arrived, released = asyncio.Event(), asyncio.Event()

    async def endless(request: web.Request) -> web.Response:
        if not request.path.endswith("txt2img"):
            return web.Response(status=404)
        arrived.set()
        await released.wait()
        return web.json_response({"images": []})

    async with serving(endless) as url:
        backend = backend_at(url, Protocol.SDAPI, disconnect_cancels=True)
        call = adapter_for(session, backend).call(image_job(None))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(call))
            await arrived.wait()
            await call.stop()
        released.set()
    assert ending.result().error.code == "cancelled"


async def test_an_interruption_is_repeated_until_the_server_has_heard_it(
    session: aiohttp.ClientSession,
) -> None:
    """A job that is only about to begin forgets that it was interrupted."""
    interrupted = 0
    arrived, ended = asyncio.Event(), asyncio.Event()

    async def deaf(request: web.Request) -> web.Response:
        nonlocal interrupted
        if request.path.endswith("interrupt"):
            interrupted += 1
            if interrupted == 3:
                ended.set()
            return web.json_response({})
        if request.path.endswith("progress"):
            return web.json_response({"progress": 0.01, "state": {"job_count": -1}})
        arrived.set()
        await ended.wait()
        return web.json_response({"images": ["half"]})

    async with serving(deaf) as url:
        call = adapter_for(session, backend_at(url, Protocol.SDAPI)).call(image_job(None))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(call))
            await arrived.wait()
            await call.stop()
    assert ending.result().error.code == "cancelled"
    assert interrupted == 3
