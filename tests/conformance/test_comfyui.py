"""What ComfyUI alone can do, and what may go wrong only there: ids of ours, a queue, a websocket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from schemas import previews
from schemas.events import ErrorClass
from schemas.registry import Protocol
from schemas.requests import ImageRequest
from services.dispatcher.backends import comfyui_watch
from services.dispatcher.backends import comfyui_wire as wire
from services.dispatcher.backends.base import (
    Attached,
    Failed,
    Finished,
    Job,
    Misconfigured,
    Previewed,
    Progressed,
)
from services.dispatcher.backends.detect import adapter_for
from services.gpusim.main import running
from services.gpusim.model import Fault, Options, Outcome, ProfileName
from tests.conformance.rigs import (
    WORKFLOW,
    SimulatorRig,
    backend_at,
    end,
    eventually,
    failed,
    finished,
    image_job,
    job,
    read,
    ready_model,
    simulated,
)
from tests.conformance.servers import serving

FLAVOURS = [ProfileName.COMFYUI, ProfileName.COMFYUI_OLD]
STEP_MS = 20_000
"""At 128 x 64, a step of about 0.6 s: long enough to be in the middle of."""


@asynccontextmanager
async def slow(
    session: aiohttp.ClientSession, profile: ProfileName = ProfileName.COMFYUI, step_ms: float = STEP_MS
) -> AsyncIterator[SimulatorRig]:
    async with simulated(session, Protocol.COMFYUI, profile=profile, step_ms=step_ms) as rig:
        yield rig


async def outcomes(rig: SimulatorRig) -> list[Outcome]:
    return [each.outcome for each in await rig.control.jobs()]


async def test_the_steps_of_the_sampler_are_its_progress(session: aiohttp.ClientSession) -> None:
    async with slow(session, step_ms=1_000) as rig:
        reports = await read(rig.adapter.call(job(rig, n=2)))
    assert isinstance(reports[0], Attached)
    assert isinstance(reports[-1], Finished)
    told = [report for report in reports if isinstance(report, Progressed)]
    shown = [report for report in reports if isinstance(report, Previewed)]
    assert len(told) == len(reports) - len(shown) - 2 > 2
    assert {report.steps for report in told} == {4}
    fractions = [report.fraction for report in told]
    assert fractions == sorted(set(fractions))
    assert 0 < fractions[0] <= 0.5 < fractions[-1] <= 1


@pytest.mark.parametrize("profile", FLAVOURS)
async def test_what_is_being_drawn_is_seen_step_by_step(
    session: aiohttp.ClientSession, profile: ProfileName
) -> None:
    async with slow(session, profile, step_ms=1_000) as rig:
        reports = await read(rig.adapter.call(job(rig, n=2)))
    shown = [report.image for report in reports if isinstance(report, Previewed)]
    assert {previews.media_type(image) for image in shown} == {"image/jpeg"}
    assert len(set(shown)) == len(shown) > 4, "of both pictures"


async def test_a_comfyui_that_shows_nothing_gives_no_preview(session: aiohttp.ClientSession) -> None:
    options = Options(profile=ProfileName.COMFYUI, step_ms=1_000, previews=False)
    async with running(options) as url:
        adapter = adapter_for(session, backend_at(url, Protocol.COMFYUI))
        reports = await read(adapter.call(image_job(await ready_model(adapter))))
    assert {type(report) for report in reports} == {Attached, Progressed, Finished}


async def test_what_is_drawn_for_somebody_without_an_id_is_no_preview_of_ours(
    session: aiohttp.ClientSession,
) -> None:
    async with slow(session, ProfileName.COMFYUI_OLD, step_ms=1_000) as rig:
        mine = job(rig)
        request = ImageRequest(prompt="an owl", seed=9, width=128, height=64, steps=40)
        (theirs,) = wire.prompts(WORKFLOW, request, rig.model, wire.remote_id(mine.task_id, 999))
        async with session.post(f"{rig.url}/prompt", json={"prompt": theirs.graph}) as answer:
            assert answer.status == 200
        await rig.held()
        shown = [each for each in await read(rig.adapter.call(mine)) if isinstance(each, Previewed)]
    assert 0 < len(shown) <= 4, "one a step of our own, and none of the other's"


@pytest.mark.parametrize("profile", FLAVOURS)
async def test_what_runs_is_interrupted_and_the_next_job_is_well(
    session: aiohttp.ClientSession, profile: ProfileName
) -> None:
    async with slow(session, profile) as rig:
        call = rig.adapter.call(job(rig))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(call))
            await rig.held()
            await call.stop()
        assert (ending.result().error.error_class, ending.result().error.code) == (
            ErrorClass.PERMANENT,
            "cancelled",
        )
        assert await outcomes(rig) == [Outcome.INTERRUPTED]


@pytest.mark.parametrize("profile", FLAVOURS)
async def test_what_waits_is_taken_out_of_the_queue_and_what_runs_goes_on(
    session: aiohttp.ClientSession, profile: ProfileName
) -> None:
    async with simulated(session, Protocol.COMFYUI, profile=profile) as rig:
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
        assert await outcomes(rig) == [Outcome.DONE, Outcome.CANCELLED]


async def test_each_picture_is_a_prompt_of_its_own_and_waits_for_the_one_before(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        ended = await finished(rig.adapter.call(job(rig, seed=40, n=3)))
        assert [output.seed for output in ended.outputs] == [40, 41, 42]
        assert [each.seed for each in await rig.control.jobs()] == [40, 41, 42]
        assert (await rig.control.stats()).max_waiting == 1


async def at_the_second(rig: SimulatorRig) -> bool:
    stats = await rig.control.stats()
    return (stats.jobs.received, stats.running) == (2, 1)


@pytest.mark.parametrize("profile", FLAVOURS)
async def test_a_call_that_is_stopped_between_its_pictures_submits_no_more(
    session: aiohttp.ClientSession, profile: ProfileName
) -> None:
    async with slow(session, profile, STEP_MS / 2) as rig:
        call = rig.adapter.call(job(rig, n=3))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(call))
            await eventually(lambda: at_the_second(rig))
            await call.stop()
        assert ending.result().error.code == "cancelled"
        assert await outcomes(rig) == [Outcome.DONE, Outcome.INTERRUPTED]


async def test_a_stop_while_it_is_asked_whether_to_go_on_submits_no_more(
    session: aiohttp.ClientSession,
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def at_last() -> bool:
        asked.set()
        return await answer.wait()

    async with simulated(session, Protocol.COMFYUI) as rig:
        call = rig.adapter.call(replace(job(rig, n=2), may_go_on=at_last))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(call))
            await asked.wait()
            await call.stop()
            answer.set()
        assert ending.result().error.code == "cancelled"
        assert await outcomes(rig) == [Outcome.DONE]


async def no() -> bool:
    return False


async def test_between_two_pictures_it_is_asked_whether_the_gpu_is_still_ours(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        ended = await failed(rig.adapter.call(replace(job(rig, n=3), may_go_on=no)))
        assert (ended.error.error_class, ended.error.code) == (ErrorClass.LOST, "lease_lost")
        assert await rig.received() == 1


async def test_after_a_picture_that_fails_no_other_is_submitted(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        await rig.control.script(Fault.OOM)
        assert (await failed(rig.adapter.call(job(rig, n=4)))).error.code == "backend_oom"
        assert await outcomes(rig) == [Outcome.FAILED]


async def test_several_pictures_are_resumed_by_the_id_of_the_first(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        begun = job(rig, n=3)
        first = await read(rig.adapter.call(begun))
        assert isinstance(first[0], Attached)
        again = await finished(
            rig.adapter.call(replace(begun, attempt=99_999, remote_id=first[0].remote_id))
        )
        assert again == first[-1]
        assert await rig.received() == 3


def held_at_the_second(rig: SimulatorRig) -> Job:
    """Ask for three pictures of which the first is drawn at once and the second hangs."""

    async def hold() -> bool:
        if await rig.received() == 1:
            await rig.hold()
        return True

    return replace(job(rig, seed=40, n=3), may_go_on=hold)


async def left_at_the_second(rig: SimulatorRig, begun: Job) -> Job:
    """Begin it, lose its reader during the second picture, and give what another is to go on with."""
    reports = rig.adapter.call(begun).reports()
    attached = await anext(reports)
    assert isinstance(attached, Attached)

    async def rest() -> None:
        async for _ in reports:
            pass

    reading = asyncio.ensure_future(rest())
    await eventually(lambda: at_the_second(rig))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    return replace(begun, remote_id=attached.remote_id)


async def test_what_is_resumed_in_the_middle_submits_only_what_was_still_to_come(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        left = await left_at_the_second(rig, held_at_the_second(rig))
        assert await rig.adapter.idle(left.remote_id) is False, "its second picture is drawn"
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(finished(rig.adapter.call(left)))
            await rig.release()
        assert [output.seed for output in ending.result().outputs] == [40, 41, 42]
        assert [each.seed for each in await rig.control.jobs()] == [40, 41, 42]
        assert (await rig.control.stats()).max_waiting == 1
        assert await finished(rig.adapter.call(left)) == ending.result()
        assert await rig.received() == 3


@pytest.mark.parametrize("profile", FLAVOURS)
async def test_what_is_resumed_in_the_middle_can_be_stopped(
    session: aiohttp.ClientSession, profile: ProfileName
) -> None:
    async with slow(session, profile, STEP_MS / 2) as rig:
        call = rig.adapter.call(await left_at_the_second(rig, job(rig, n=3)))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(call))
            await call.stop()
        assert ending.result().error.code == "cancelled"
        assert await outcomes(rig) == [Outcome.DONE, Outcome.INTERRUPTED]


async def test_what_is_resumed_in_the_middle_goes_on_only_where_the_gpu_is_ours(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        left = await left_at_the_second(rig, held_at_the_second(rig))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(rig.adapter.call(replace(left, may_go_on=no))))
            await rig.release()
        assert ending.result().error.code == "lease_lost"
        assert await rig.received() == 2


async def test_a_batch_is_one_prompt_and_all_its_pictures_have_its_seed(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        workflow = replace(WORKFLOW, inputs={**WORKFLOW.inputs, "n": "5.inputs.batch_size"})
        batched = replace(backend_at(rig.url, Protocol.COMFYUI), workflow=workflow)
        ended = await finished(adapter_for(session, batched).call(job(rig, seed=40, n=3)))
        assert [output.seed for output in ended.outputs] == [40, 40, 40]
        assert await rig.received() == 1


async def test_a_file_is_fetched_whatever_its_name_is(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        saving = {
            "class_type": "SaveImage",
            "inputs": {"images": ["8", 0], "filename_prefix": "a b/ü&c+d%20#?"},
        }
        graph = {**WORKFLOW.graph, "9": saving}
        named = replace(backend_at(rig.url, Protocol.COMFYUI), workflow=replace(WORKFLOW, graph=graph))
        await finished(adapter_for(session, named).call(job(rig)))


async def test_without_a_workflow_it_says_what_it_needs(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        bare = adapter_for(session, replace(backend_at(rig.url, Protocol.COMFYUI), workflow=None))
        health = await bare.probe(2.0)
        assert isinstance(health, Misconfigured)
        assert "workflow" in health.reason
        ended = await failed(bare.call(job(rig)))
        assert (ended.error.error_class, ended.error.code) == (ErrorClass.MISCONFIGURED, "no_workflow")
        assert await rig.received() == 0


async def test_a_sampler_that_is_not_there_is_the_task_s_mistake_and_a_model_the_server_s(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        plain = job(rig)
        assert isinstance(plain.request, ImageRequest)
        wrong = replace(plain, request=replace(plain.request, sampler="no such"))
        ended = await failed(rig.adapter.call(wrong))
        assert (ended.error.error_class, ended.error.code) == (ErrorClass.PERMANENT, "rejected_by_backend")
        assert "sampler_name" in ended.error.message
        ended = await failed(rig.adapter.call(replace(job(rig), model="no such")))
        assert (ended.error.error_class, ended.error.code) == (ErrorClass.MISCONFIGURED, "model_missing")
        assert "no such" in ended.error.message


async def test_a_node_that_is_not_installed_is_a_misconfiguration(session: aiohttp.ClientSession) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        graph = {**WORKFLOW.graph, "4": {**WORKFLOW.graph["4"], "class_type": "UnetLoaderGGUF"}}
        backend = replace(backend_at(rig.url, Protocol.COMFYUI), workflow=replace(WORKFLOW, graph=graph))
        ended = await failed(adapter_for(session, backend).call(job(rig)))
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.MISCONFIGURED, "workflow_rejected")
    assert "UnetLoaderGGUF" in ended.error.message


class Scripted:
    """A ComfyUI that accepts everything and says of it what the test says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ids: list[str] = []
        self.running: list[str] = []
        self.history: dict[str, object] = {}
        self.vanishing = False

    def fail(self) -> None:
        """Let all that was submitted have failed."""
        self.running = []
        self.history = {prompt_id: {"status": {"status_str": "error"}} for prompt_id in self.ids}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        match request.method, request.path.split("/")[1]:
            case "POST", "prompt":
                self.ids.append((await request.json())["prompt_id"])
                return web.json_response({"prompt_id": self.ids[-1], "number": 1, "node_errors": {}})
            case "GET", "queue":
                running = [[0, prompt_id, {}, {}, []] for prompt_id in self.running]
                if self.vanishing:
                    self.fail()
                return web.json_response({"queue_running": running, "queue_pending": []})
            case "GET", "history":
                known = request.path.rpartition("/")[2]
                return web.json_response({known: self.history[known]} if known in self.history else {})
            case _:
                return web.Response(status=404)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfyui_watch, "LOOK_EVERY_S", 0.0)


@pytest.mark.usefixtures("_impatient")
async def test_what_is_neither_in_the_queue_nor_in_the_history_is_lost(
    session: aiohttp.ClientSession,
) -> None:
    server = Scripted()
    async with serving(server.answer) as url:
        ended = await failed(adapter_for(session, backend_at(url, Protocol.COMFYUI)).call(image_job("m")))
    assert (ended.error.error_class, ended.error.code) == (ErrorClass.LOST, "job_lost")
    assert server.asked[-1].startswith("GET /history/")


@pytest.mark.usefixtures("_impatient")
async def test_nothing_is_lost_of_an_attempt_while_the_queue_has_another_of_its_prompts(
    session: aiohttp.ClientSession,
) -> None:
    server = Scripted()
    begun = image_job("m", n=2)
    remote_id = wire.remote_id(begun.task_id, begun.attempt)
    server.running = [wire.prompt_ids(remote_id, 2)[1]]
    async with serving(server.answer) as url:
        call = adapter_for(session, backend_at(url, Protocol.COMFYUI)).call(
            replace(begun, remote_id=remote_id)
        )
        reading = asyncio.ensure_future(failed(call))

        async def looked() -> bool:
            return server.asked.count("GET /queue") > 1

        await eventually(looked)
        assert not reading.done()
        server.running = []
        assert (await reading).error.code == "job_lost"
    assert server.ids == []


@pytest.mark.usefixtures("_impatient")
async def test_what_ends_between_two_questions_is_not_lost(session: aiohttp.ClientSession) -> None:
    server = Scripted()
    server.vanishing = True
    async with serving(server.answer) as url:
        ended = await failed(adapter_for(session, backend_at(url, Protocol.COMFYUI)).call(image_job("m")))
    assert ended.error.code == "backend_error"


async def test_the_history_of_all_is_never_asked_for_and_the_queue_seldom(
    session: aiohttp.ClientSession,
) -> None:
    async with simulated(session, Protocol.COMFYUI) as rig:
        asked: list[str] = []

        async def note(request: web.Request) -> web.Response:
            asked.append(request.path)
            async with session.request(
                request.method, f"{rig.url}{request.rel_url}", data=await request.read()
            ) as answer:
                return web.Response(status=answer.status, body=await answer.read())

        async with serving(note) as url:
            await finished(adapter_for(session, backend_at(url, Protocol.COMFYUI)).call(job(rig)))
    assert "/history" not in {path.rstrip("/") for path in asked}
    assert "/queue" not in asked
    assert asked[0] == "/prompt"
    assert "/ws" in asked, "a socket was tried, which that proxy does not pass on"


async def test_a_websocket_is_not_followed_to_another_host(session: aiohttp.ClientSession) -> None:
    visited: list[str] = []
    server = Scripted()

    async def target(request: web.Request) -> web.Response:
        visited.append(request.path)
        return web.Response()

    async with serving(target) as elsewhere:

        async def redirect(request: web.Request) -> web.StreamResponse:
            if request.path == "/ws":
                return web.Response(status=307, headers={"Location": f"{elsewhere}/ws"})
            return await server.answer(request)

        async with serving(redirect) as url:
            calling = adapter_for(session, backend_at(url, Protocol.COMFYUI)).call(image_job("m"))
            reading = asyncio.ensure_future(end(calling))

            async def polled() -> bool:
                return any(path.startswith("GET /history") for path in server.asked)

            await eventually(polled)
            server.fail()
            assert isinstance(await reading, Failed)
    assert visited == []


async def test_a_socket_that_says_nonsense_or_breaks_costs_only_the_progress(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.dispatcher.backends.comfyui_events.RECONNECT_S", 0.0)
    server, opened = Scripted(), 0

    async def babbling(request: web.Request) -> web.StreamResponse:
        nonlocal opened
        if request.path != "/ws":
            return await server.answer(request)
        opened += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str('{"type": "progress", "data": [1, 2')
        await socket.send_bytes(b"\0" * 8)
        await socket.send_str('{"type": "executing", "data": {"node": null, "prompt_id": "of another"}}')
        await socket.close()
        return socket

    async with serving(babbling) as url:
        reading = asyncio.ensure_future(
            failed(adapter_for(session, backend_at(url, Protocol.COMFYUI)).call(image_job("m")))
        )

        async def again() -> bool:
            return opened > 2

        await eventually(again)
        server.fail()
        assert (await reading).error.code == "backend_error"


async def test_an_old_server_is_told_to_interrupt_only_while_our_prompt_runs(
    session: aiohttp.ClientSession,
) -> None:
    server = Scripted()
    server.running = ["0199d4e8-7c1a-8000-8000-00000000000f"]
    async with serving(server.answer) as url:
        call = adapter_for(session, backend_at(url, Protocol.COMFYUI)).call(image_job("m"))
        reading = asyncio.ensure_future(failed(call))

        async def submitted() -> bool:
            return bool(server.ids)

        await eventually(submitted)
        await call.stop()
        assert (await reading).error.code == "cancelled"
    assert "POST /queue" in server.asked
    assert "POST /interrupt" not in server.asked


async def test_a_stop_during_the_submission_of_several_submits_no_more(
    session: aiohttp.ClientSession,
) -> None:
    server, arrived, accept = Scripted(), asyncio.Event(), asyncio.Event()

    async def slowly(request: web.Request) -> web.StreamResponse:
        if request.path == "/prompt":
            arrived.set()
            await accept.wait()
        return await server.answer(request)

    async with serving(slowly) as url:
        call = adapter_for(session, backend_at(url, Protocol.COMFYUI)).call(image_job("m", n=3))
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(failed(call))
            await arrived.wait()
            await call.stop()
            accept.set()
    assert ending.result().error.code == "cancelled"
    assert len(server.ids) == 1
    assert f"POST /api/jobs/{server.ids[0]}/cancel" in server.asked


@pytest.mark.parametrize("arrived", [True, False])
async def test_a_submission_of_which_nothing_was_heard_is_looked_for(
    session: aiohttp.ClientSession,
    arrived: bool,  # noqa: FBT001 - from the table
) -> None:
    server = Scripted()

    async def breaking(request: web.Request) -> web.StreamResponse:
        answer = await server.answer(request)
        if request.path == "/prompt":
            server.running = list(server.ids) if arrived else []
            assert request.transport is not None
            request.transport.abort()
        return answer

    async with serving(breaking) as url:
        call = adapter_for(session, backend_at(url, Protocol.COMFYUI)).call(image_job("m"))
        reading = asyncio.ensure_future(failed(call))

        async def looked() -> bool:
            return "GET /queue" in server.asked

        await eventually(looked)
        if arrived:
            assert not reading.done()
            server.fail()
        expected = "backend_error" if arrived else "connection_lost"
        assert (await reading).error.code == expected
