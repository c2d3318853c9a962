"""What the api does while something that it depends on is away."""

import asyncio
import signal
import socket
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from schemas import subjects
from schemas.task import Status
from services import clock
from services.api import storage
from services.api.main import serve
from services.bus.connection import Bus
from services.bus.tasklog import Beginning
from services.process import StartError
from tests.api import Rig, eventually, form, running, running_api, settings_for, wav
from tests.nats import NatsServer

IMAGE = "/api/v1/image/async"
TASKS = "/api/v1/tasks"


async def test_without_nats_submissions_are_refused_in_time_and_reads_go_on(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path, submit_timeout_s=0.5)) as rig:
        task_id = await rig.submit()
        await _listed(rig, task_id)
        nats_server.kill()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        reply = await rig.ask("POST", IMAGE, json={"prompt": "x"})
        assert loop.time() - begun < 2.5
        assert reply.refusal()[0] == 503
        assert reply.json["code"] in ("nats_away", "outcome_unknown")

        async def noticed() -> bool:
            reasons = (await rig.ask("GET", "/readyz")).json["reasons"]
            return bool(reasons == ["not connected to NATS"])

        await eventually(noticed)
        begun = loop.time()
        for reply in (
            await rig.ask("POST", IMAGE, json={"prompt": "x"}),
            await rig.ask("POST", "/api/v1/speech/async", data=form(file=wav())),
            await rig.ask("DELETE", f"{TASKS}/{task_id}"),
            await rig.ask("GET", f"{TASKS}/01999999-0000-7000-8000-000000000000"),
        ):
            assert reply.refusal() == (503, "nats_away", None)
            assert reply.headers["retry-after"] == "2"
        assert loop.time() - begun < 2
        assert (await rig.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "QUEUED"
        assert len((await rig.ask("GET", TASKS)).json["tasks"]) == 1
        assert (await rig.ask("GET", "/healthz")).status == 200
        nats_server.start()

        async def taken() -> bool:
            return (await rig.ask("POST", IMAGE, json={"prompt": "again"})).status == 202

        await eventually(taken)
        assert await rig.stored_tasks() == 2


async def test_what_jetstream_refuses_is_told_in_its_own_words(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await rig.submit()
        config = (await rig.bus.api(f"STREAM.INFO.{subjects.TASKS}"))["config"]
        await rig.bus.api(f"STREAM.UPDATE.{subjects.TASKS}", {**config, "max_consumers": 1})
        reply = await rig.ask("POST", IMAGE, json={"prompt": "x", "priority": "high"})

        assert reply.refusal() == (503, "nats_away", None)
        assert "maximum consumers limit reached" in reply.json["detail"]


async def test_a_lane_that_cannot_be_made_in_time_refuses_its_task(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path, submit_timeout_s=0.3)) as rig:
        nats_server.signal(signal.SIGSTOP)
        reply = await rig.ask("POST", IMAGE, json={"prompt": "x"})
        nats_server.signal(signal.SIGCONT)

        assert reply.refusal() == (503, "nats_away", None)
        assert await rig.stored_tasks() == 0


async def test_a_known_key_is_answered_without_nats(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        key = {"idempotency-key": "k"}
        first = await rig.ask("POST", IMAGE, json={"prompt": "x"}, headers=key)
        await _listed(rig, first.json["task_id"])
        nats_server.kill()
        again = await rig.ask("POST", IMAGE, json={"prompt": "x"}, headers=key)
        assert (again.status, again.json["task_id"]) == (202, first.json["task_id"])
        nats_server.start()


async def test_the_api_starts_before_nats(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = settings_for(nats_server, tmp_path)
    nats_server.stop()
    async with running_api(settings) as url, aiohttp.ClientSession() as session:
        rig = Rig(url, Bus(settings.bus_url, "test"), session, settings)
        reply = await rig.ask("POST", IMAGE, json={"prompt": "x"})
        assert reply.refusal() == (503, "nats_away", None)
        assert (await rig.ask("GET", TASKS)).refusal() == (503, "read_model_away", None)
        ready = await rig.ask("GET", "/readyz")
        assert (ready.status, len(ready.json["reasons"])) == (503, 2)
        nats_server.start()

        async def connected() -> bool:
            reasons = (await rig.ask("GET", "/readyz")).json["reasons"]
            return "not connected to NATS" not in reasons

        await eventually(connected)


async def test_without_a_read_model_tasks_come_from_the_stream(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        suspected = asyncio.Event()

        def on_suspect(_: object) -> None:
            suspected.set()

        await rig.bus.subscribe(subjects.SUSPECT, on_suspect)
        task_id = await rig.submit()
        await rig.start(task_id)
        assert (await rig.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "RUNNING"
        listed = await rig.ask("GET", TASKS)
        assert listed.refusal() == (503, "read_model_away", None)
        assert int(listed.headers["retry-after"]) > 0
        assert (await rig.ask("GET", "/api/v1/events")).refusal() == (503, "read_model_away", None)
        await asyncio.wait_for(suspected.wait(), 5)


@pytest.mark.parametrize("harm", ["delete", "truncate", "overwrite"])
async def test_a_read_model_that_is_harmed_is_made_anew_while_reads_go_on(
    nats_server: NatsServer, tmp_path: Path, harm: str
) -> None:
    settings = settings_for(nats_server, tmp_path)
    async with running(settings) as rig:
        made = [await rig.submit(prompt=str(number)) for number in range(30)]
        await _listed(rig, made[-1])
        path = settings.readmodel_path
        if harm == "delete":
            path.unlink()
        elif harm == "truncate":
            with path.open("r+b") as file:
                file.truncate(0)
        else:
            with path.open("r+b") as file:
                file.write(b"\x00" * path.stat().st_size)
        for task_id in made:
            reply = await rig.ask("GET", f"{TASKS}/{task_id}")
            assert (reply.status, reply.json["status"]) == (200, "QUEUED")
        last = await rig.submit(prompt="after")
        await _listed(rig, last)
        assert len((await rig.ask("GET", TASKS)).json["tasks"]) == 31


async def test_a_full_storage_refuses_new_work(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nearly_full(_: Bus) -> float:
        return 0.81  # of 8 GB, which are too many to fill here

    monkeypatch.setattr(storage, "storage_share", nearly_full)
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:

        async def refused() -> bool:
            return (await rig.ask("POST", IMAGE, json={"prompt": "x"})).status == 503

        await eventually(refused)
        for reply in (
            await rig.ask("POST", IMAGE, json={"prompt": "x"}),
            await rig.ask("POST", "/api/v1/speech/async", data=form(file=wav())),
        ):
            assert reply.refusal() == (503, "storage_full", None)
        assert await rig.objects() == 0


async def test_a_taken_port_is_one_line(nats_server: NatsServer, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = replace(settings_for(nats_server, tmp_path), api_port=port)
        with pytest.raises(StartError, match=f"port {port} is taken; TASKFOLD_API_PORT"):
            await serve(settings, asyncio.Event())


async def test_what_is_overdue_expires_in_every_status(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = settings_for(
        nats_server, tmp_path, sweep_interval_s=0.05, deadline_s=1.0, start_deadline_s=0.5
    )
    async with running(settings) as rig:
        queued = await rig.submit()
        running_one = await rig.submit()
        await rig.start(running_one)
        for task_id, code in ((queued, "start_deadline_passed"), (running_one, "total_deadline_passed")):
            shown = await rig.ask("GET", f"{TASKS}/{task_id}?wait=20")
            assert (shown.json["status"], shown.json["error"]["code"]) == ("EXPIRED", code)


async def test_an_overdue_schedule_goes_with_its_task(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = settings_for(nats_server, tmp_path, sweep_interval_s=0.05)
    async with running(settings) as rig:
        found = await rig.tasklog.lookup(task_id := await rig.submit(delay_s=3600))
        assert found.address
        assert found.task.submission
        assert found.task.status is Status.SCHEDULED
        other = clock.new_task_id()
        submission = replace(
            found.task.submission,
            not_before=clock.now() + timedelta(hours=1),
            start_deadline=clock.now() - timedelta(seconds=1),
        )
        address = subjects.Address(found.address.lane, other)
        await rig.tasklog.begin([Beginning(address, submission)], patience_s=5)
        shown = await rig.ask("GET", f"{TASKS}/{other}?wait=20")
        assert shown.json["status"] == "EXPIRED"
        info = await rig.bus.api("STREAM.INFO.TASKS", {"subjects_filter": "sched.>"})
        assert list(info["state"]["subjects"]) == [subjects.schedule_subject(task_id)]


async def test_the_schema_describes_every_route(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        reply = await rig.ask("GET", "/schema")
        assert reply.headers["content-type"] == "application/json"
        assert reply.json["openapi"].startswith("3.1")
        paths = reply.json["paths"]
        assert paths[IMAGE]["post"]["requestBody"]["content"]["application/json"]
        assert "multipart/form-data" in paths["/api/v1/speech/async"]["post"]["requestBody"]["content"]
        for operations in paths.values():
            for operation in operations.values():
                problems = [r for s, r in operation["responses"].items() if int(s) >= 400]
                assert problems
                assert all("application/problem+json" in problem["content"] for problem in problems)
        for reference in _references(reply.json):
            assert reference.removeprefix("#/components/schemas/") in reply.json["components"]["schemas"]
        options = await rig.ask("OPTIONS", TASKS)
        assert (options.status, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        found = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return found + [ref for value in node.values() for ref in _references(value)]
    if isinstance(node, list):
        return [ref for value in node for ref in _references(value)]
    return []


async def _listed(rig: Rig, task_id: str) -> None:
    async def there() -> bool:
        reply = await rig.ask("GET", f"{TASKS}?limit=200")
        return reply.status == 200 and any(task["task_id"] == task_id for task in reply.json["tasks"])

    await eventually(there)
