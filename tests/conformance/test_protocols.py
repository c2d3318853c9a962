"""What is particular to one protocol: re-attachable jobs, disconnects, recognition."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from schemas.events import ErrorClass
from schemas.registry import KIND_OF, Protocol
from schemas.requests import Kind
from services.dispatcher.backends.base import Health, Loading, Misconfigured, Refused, Silent
from services.dispatcher.backends.detect import adapter_for, recognise
from tests.conformance.rigs import (
    backend_at,
    eventually,
    failed,
    finished,
    image_job,
    job,
    refusing,
    simulated,
)
from tests.conformance.servers import serving, silent


async def test_a_disconnect_ends_a_job_where_the_backend_notices_it(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.OPENAI_IMAGES) as rig:
        adapter = adapter_for(session, backend_at(rig.url, Protocol.OPENAI_IMAGES, disconnect_cancels=True))
        await rig.hold()
        call = adapter.call(job(rig))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(call))
            await rig.held()
            await call.stop()
        assert ending.result().error.code == "cancelled"

        async def interrupted() -> bool:
            return (await rig.control.stats()).jobs.interrupted == 1

        await eventually(interrupted)
        await finished(adapter.call(job(rig)))


async def test_a_job_that_waits_at_the_backend_is_cancelled_there(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.SDCPP) as rig:
        await rig.hold()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(finished(rig.adapter.call(job(rig))))
            await rig.held()
            call = rig.adapter.call(job(rig))
            second = group.create_task(failed(call))

            async def queued() -> bool:
                return (await rig.control.stats()).waiting == 1

            await eventually(queued)
            await call.stop()
            assert (await second).error.code == "cancelled"
            assert not first.done()
            await rig.release()


async def test_a_stop_during_the_submission_is_passed_on_once_there_is_an_id(
    session: aiohttp.ClientSession,
) -> None:
    accept, arrived = asyncio.Event(), asyncio.Event()
    paths: list[str] = []

    async def server(request: web.Request) -> web.Response:
        paths.append(request.path)
        if request.path.endswith("img_gen"):
            arrived.set()
            await accept.wait()
            return web.json_response({"id": "job_1", "status": "queued"}, status=202)
        return web.json_response({"id": "job_1", "status": "cancelled", "result": None})

    async with serving(server) as url:
        call = adapter_for(session, backend_at(url, Protocol.SDCPP)).call(image_job("m"))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(call))
            await arrived.wait()
            await call.stop()
            assert not ending.done()
            accept.set()
    assert ending.result().error.code == "cancelled"
    assert paths[:2] == ["/sdcpp/v1/img_gen", "/sdcpp/v1/jobs/job_1/cancel"]


@pytest.mark.parametrize("status", [404, 410])
async def test_a_job_that_the_server_forgot_is_lost(session: aiohttp.ClientSession, status: int) -> None:
    async def forgetful(request: web.Request) -> web.Response:
        if request.path.endswith("img_gen"):
            return web.json_response({"id": "job_1", "status": "queued"}, status=202)
        return web.json_response({"error": "job expired"}, status=status)

    async with serving(forgetful) as url:
        adapter = adapter_for(session, backend_at(url, Protocol.SDCPP))
        ended = await failed(adapter.call(image_job("m")))
        assert (ended.error.error_class, ended.error.code) == (ErrorClass.LOST, "job_lost")
        assert await adapter.idle("job_1") is True


async def test_a_poll_that_fails_now_and_then_does_not_end_the_job(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.SDCPP) as rig:
        polls = 0

        async def flaky(request: web.Request) -> web.Response:
            nonlocal polls
            if "/jobs/" in request.path:
                polls += 1
                if polls % 2:
                    return web.Response(status=502)
            async with session.request(
                request.method, f"{rig.url}{request.path}", data=await request.read()
            ) as answer:
                return web.Response(status=answer.status, body=await answer.read())

        async with serving(flaky) as url:
            await finished(adapter_for(session, backend_at(url, Protocol.SDCPP)).call(job(rig)))
    assert polls == 2


async def test_a_silent_server_keeps_its_job_for_as_long_as_it_likes(
    session: aiohttp.ClientSession,
) -> None:
    async with silent() as url:
        adapter = adapter_for(session, backend_at(url, Protocol.SDCPP))
        reports = asyncio.ensure_future(failed(adapter.call(image_job("m"))))
        assert await adapter.idle("job_1") is False
        assert not reports.done()
    assert (await reports).error.code == "connection_lost"


@pytest.mark.parametrize("protocol", Protocol)
async def test_a_plain_url_is_recognised_by_its_routes(
    session: aiohttp.ClientSession, protocol: Protocol
) -> None:
    async with simulated(session, protocol) as rig:
        assert await recognise(session, backend_at(rig.url, None, kind=KIND_OF[protocol]), 2.0) is protocol


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        (Kind.IMAGE, 404, Misconfigured),
        (Kind.IMAGE, 401, Misconfigured),
        (Kind.IMAGE, 503, Loading),
        (Kind.SPEECH, 404, Misconfigured),
        (Kind.SPEECH, 503, Loading),
        (Kind.SPEECH, 403, Misconfigured),
    ],
)
async def test_a_server_that_is_not_recognised_says_why(
    session: aiohttp.ClientSession, kind: Kind, status: int, expected: type[Health]
) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status)

    async with serving(answer) as url:
        assert isinstance(await recognise(session, backend_at(url, None, kind=kind), 2.0), expected)


@pytest.mark.parametrize("kind", Kind)
async def test_a_server_that_is_not_there_is_not_recognised_yet(
    session: aiohttp.ClientSession, kind: Kind
) -> None:
    with refusing() as url:
        assert isinstance(await recognise(session, backend_at(url, None, kind=kind), 2.0), Refused)
    async with silent() as url:
        assert await recognise(session, backend_at(url, None, kind=kind), 2.0) == Silent()


async def test_a_backend_without_a_protocol_has_no_adapter(session: aiohttp.ClientSession) -> None:
    with pytest.raises(ValueError, match="gpu-1"):
        adapter_for(session, backend_at("http://127.0.0.1:1", None))
