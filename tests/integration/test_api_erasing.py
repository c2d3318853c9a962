"""Erasing a task's content: gone from the log, the read model and the store; the facts stay."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.events import TaskDone, TaskErased, Usage
from schemas.ids import TaskId
from schemas.subjects import TASKS as STREAM
from schemas.subjects import any_guard
from services.bus.stored import from_direct_get
from tests.api import Rig, eventually, form, running, settings_for, wav
from tests.nats import NatsServer

TASKS = "/api/v1/tasks"
SECRET = "a very private fox"
AS_JSON = {"Accept": "application/json"}


async def finished(rig: Rig, **members: Any) -> TaskId:  # Any: JSON
    task_id = await rig.submit(prompt=SECRET, metadata={"note": SECRET}, tags=["t"], user="ada", **members)
    await rig.start(task_id)
    await rig.finish(task_id)
    return task_id


async def erased(rig: Rig, task_id: TaskId) -> dict[str, Any]:  # Any: JSON
    reply = await rig.ask("DELETE", f"{TASKS}/{task_id}/content")
    assert reply.status == 200, reply.body
    answer: dict[str, Any] = reply.json
    seen = {"Taskfold-Sequence": reply.headers["taskfold-sequence"]}
    assert (await rig.ask("GET", "/api/v1/queues", headers=seen)).status == 200
    return answer


async def left(rig: Rig, task_id: TaskId) -> list[str]:
    """Name the events of a task that the log still holds."""
    body = msgspec.json.encode({"multi_last": [any_guard(task_id), f"sched.{task_id}"]})
    messages = await rig.bus.gather(f"$JS.API.DIRECT.GET.{STREAM}", body)
    return [from_direct_get(message).subject.rpartition(".")[2] for message in messages]


async def test_what_is_erased_is_gone_and_the_facts_stay(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = settings_for(nats_server, tmp_path)
    async with running(settings) as rig:
        task_id = await finished(rig)
        before = (await rig.ask("GET", f"{TASKS}/{task_id}?wait=30")).json
        answer = await erased(rig, task_id)
        assert (answer["outcome"], answer["kept"]) == ("ERASED", None)
        after = (await rig.ask("GET", f"{TASKS}/{task_id}")).json
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {"request", "metadata", "result_url", "erased_at", "sequence"}
        assert after["request"] == {**before["request"], "prompt": None, "negative_prompt": None}
        assert (after["status"], after["metadata"], after["result_url"]) == ("DONE", {}, None)
        assert after["erased_at"] is not None
        assert await left(rig, task_id) == ["erased"]
        assert (await rig.ask("GET", before["result_url"])).refusal()[1] == "expired_artifact"
        history = await rig.ask("GET", f"{TASKS}/{task_id}/events", headers=AS_JSON)
        assert [event["type"] for event in history.json["events"]] == ["task.erased"]
        assert SECRET not in history.body.decode()
        listed = (await rig.ask("GET", f"{TASKS}?tag=t&user=ada&status=DONE")).json["tasks"]
        assert listed == [after]
        again = await rig.ask("POST", f"{TASKS}/{task_id}/replay")
        assert again.refusal()[:2] == (410, "erased")
        repeated = await rig.ask("DELETE", f"{TASKS}/{task_id}/content")
        assert repeated.json["outcome"] == "ALREADY_ERASED"


async def test_a_rebuild_shows_the_same(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = settings_for(nats_server, tmp_path)
    paths = ["/api/v1/events", f"{TASKS}?limit=200", "/api/v1/queues?at=2120-01-01T00:00:00Z"]
    async with running(settings) as rig:
        ids = [await finished(rig) for _ in range(3)]
        failed = await rig.submit(prompt=SECRET)
        await rig.fail(failed)
        await rig.submit(prompt="it goes on")
        for task_id in (ids[1], failed):
            await erased(rig, task_id)
        shown = [(await rig.ask("GET", path, headers=AS_JSON)).body for path in paths]
    for file in (tmp_path / "data").glob("readmodel.db*"):
        file.unlink()
    async with running(settings) as rig:

        async def same() -> bool:
            return [(await rig.ask("GET", path, headers=AS_JSON)).body for path in paths] == shown

        await eventually(same)


async def test_no_byte_of_it_is_left_in_the_files(nats_server: NatsServer, tmp_path: Path) -> None:
    """Neither in the read model's nor in the server's."""
    settings = settings_for(nats_server, tmp_path)
    async with running(settings) as rig:
        task_id = await finished(rig)
        await rig.ask("GET", f"{TASKS}/{task_id}?wait=30")
        await erased(rig, task_id)

        async def gone() -> bool:
            return not any(
                SECRET.encode() in file.read_bytes()
                for folder in (tmp_path / "data", nats_server.folder)
                for file in folder.rglob("*")
                if file.is_file() and not file.name.endswith("-shm")
            )

        await eventually(gone)


async def test_only_what_has_ended_can_be_erased(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit(prompt=SECRET)
        waiting = await rig.ask("DELETE", f"{TASKS}/{task_id}/content")
        assert waiting.refusal()[:2] == (409, "not_finished")
        assert (await rig.ask("GET", f"{TASKS}/{task_id}")).json["request"]["prompt"] == SECRET
        unknown = "0199d4e8-7c1a-7000-8000-ba9876543210"
        reply = await rig.ask("DELETE", f"{TASKS}/{unknown}/content")
        assert reply.refusal()[:2] == (404, "unknown_task")


async def test_a_cancelled_delayed_task_can_be_erased(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit(prompt=SECRET, delay_s=3600)
        await rig.ask("DELETE", f"{TASKS}/{task_id}")
        await erased(rig, task_id)
        assert await left(rig, task_id) == ["erased"]
        assert (await rig.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "CANCELLED"


async def test_what_was_begun_and_not_ended_is_seen_through(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when an api dies between the event and the deletion."""
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await finished(rig)
        with monkeypatch.context() as patched:

            async def dies(*_: object) -> None:
                raise ConnectionResetError

            patched.setattr("services.api.erasing.forget", dies)
            assert (await rig.ask("DELETE", f"{TASKS}/{task_id}/content")).status == 500

        async def seen_through() -> bool:
            return await left(rig, task_id) == ["erased"] and await rig.objects() == 0

        await eventually(seen_through)


async def test_a_recording_goes_with_the_last_task_that_needs_it(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        accepted = await rig.ask("POST", "/api/v1/speech/async", data=form(file=wav()))
        first = TaskId(accepted.json["task_id"])
        recording = (await rig.ask("GET", f"{TASKS}/{first}")).json["request"]["artifact"]
        body = {"artifact": recording, "prompt": SECRET}
        second = TaskId((await rig.ask("POST", "/api/v1/speech/async", json=body)).json["task_id"])
        await rig.start(first)
        await rig.append(first, TaskDone(attempt=1, artifacts=(), usage=Usage(run_s=1), text=SECRET))
        assert (await erased(rig, first))["kept"] == recording
        assert (await rig.ask("GET", f"/api/artifacts/{recording}")).status == 200
        assert (await rig.ask("GET", f"{TASKS}/{first}")).json["text"] is None
        await rig.ask("DELETE", f"{TASKS}/{second}")
        assert (await erased(rig, second))["kept"] is None
        assert (await rig.ask("GET", f"/api/artifacts/{recording}")).status in (404, 410)


async def test_an_unreadable_erasure_by_hand_changes_nothing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """One without facts, of a task that the log knows: its events stay."""
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await finished(rig)
        await rig.append(task_id, TaskErased(by="somebody"))
        await rig.ask("GET", f"{TASKS}/{task_id}?wait=30")
        assert "submitted" in await left(rig, task_id)
        assert (await erased(rig, task_id))["outcome"] == "ERASED"
        assert await left(rig, task_id) == ["erased"]
        assert (await rig.ask("GET", f"{TASKS}/{task_id}")).json["request"]["prompt"] is None
