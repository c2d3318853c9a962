"""Showing tasks, waiting for them, and cancelling them."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from schemas.events import Progress
from schemas.ids import TaskId
from schemas.subjects import progress_subject
from services.projector import main as projector
from tests.api import Rig, beside, eventually, running, settings_for, until_ready
from tests.nats import NatsServer

TASKS = "/api/v1/tasks"


async def show_progress(rig: Rig, task_id: TaskId, fraction: float) -> None:
    body = msgspec.json.encode(Progress(attempt=1, fraction=fraction))
    await rig.bus.publish(progress_subject(task_id), body, {})


async def projected(rig: Rig, task_id: TaskId, status: str) -> None:
    """Wait until the list, which comes from the read model alone, shows a task's status."""

    async def there() -> bool:
        tasks = (await rig.ask("GET", f"{TASKS}?limit=200")).json["tasks"]
        return any(task["task_id"] == task_id and task["status"] == status for task in tasks)

    await eventually(there)


@pytest.mark.parametrize("with_projector", [True, False])
async def test_a_task_is_shown_the_moment_it_was_accepted(
    nats_server: NatsServer, tmp_path: Path, *, with_projector: bool
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=with_projector) as rig:
        for number in range(20):
            task_id = await rig.submit(prompt=str(number))
            one = await rig.ask("GET", f"{TASKS}/{task_id}")
            assert (one.status, one.json["request"]["prompt"]) == (200, str(number))
            cancelled = await rig.ask("DELETE", f"{TASKS}/{task_id}")
            assert cancelled.json == {"task_id": task_id, "outcome": "CANCELLED"}
            assert (await rig.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "CANCELLED"


async def test_a_task_is_shown_no_earlier_than_it_was_shown_before(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path)
    async with running(settings, projected=False) as rig:
        async with beside(projector.serve, settings):
            await until_ready(rig, projected=True)
            task_id = await rig.submit()
            await projected(rig, task_id, "QUEUED")
        started = await rig.start(task_id)
        assert (await rig.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "QUEUED"
        seen = await rig.ask("GET", f"{TASKS}/{task_id}", headers={"taskfold-sequence": str(started)})
        assert seen.json["status"] == "RUNNING"
        assert (await rig.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "RUNNING"


async def test_both_ways_to_ask_give_the_same_bytes(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        by_path = await rig.ask("GET", f"{TASKS}/{task_id}")
        by_query = await rig.ask("GET", f"{TASKS}?task_id={task_id}")
        assert by_path.body == by_query.body
        assert by_path.headers["etag"] == by_query.headers["etag"]
        head = await rig.ask("HEAD", f"{TASKS}/{task_id}")
        assert (head.status, head.body, head.headers["etag"]) == (200, b"", by_path.headers["etag"])


async def test_the_etag_changes_with_each_event_and_each_progress(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        seen: list[str] = []

        async def changed() -> bool:
            known = {"if-none-match": seen[-1]} if seen else {}
            reply = await rig.ask("GET", f"{TASKS}/{task_id}", headers=known)
            if reply.status == 304:
                assert reply.body == b""
                assert reply.headers["etag"] == seen[-1]
                return False
            seen.append(reply.headers["etag"])
            return True

        await eventually(changed)
        await rig.start(task_id)
        await eventually(changed)
        await show_progress(rig, task_id, 0.5)
        await eventually(changed)
        await show_progress(rig, task_id, 0.75)
        await eventually(changed)
        shown = (await rig.ask("GET", f"{TASKS}/{task_id}")).json
        assert shown["progress"]["fraction"] == 0.75
        await rig.finish(task_id)
        await eventually(changed)
        assert len(set(seen)) == len(seen)
        assert not await changed()


async def test_a_long_poll_ends_with_the_task(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        waiting = asyncio.ensure_future(rig.ask("GET", f"{TASKS}/{task_id}?wait=30"))
        await rig.start(task_id)
        await projected(rig, task_id, "RUNNING")
        assert not waiting.done()
        await rig.finish(task_id)
        reply = await waiting
        assert reply.json["status"] == "DONE"
        assert "retry-after" not in reply.headers


async def test_a_long_poll_with_an_etag_ends_with_a_change(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        known = (await rig.ask("GET", f"{TASKS}/{task_id}")).headers["etag"]
        waiting = asyncio.ensure_future(
            rig.ask("GET", f"{TASKS}/{task_id}?wait=30", headers={"if-none-match": known})
        )
        await rig.start(task_id)
        assert (await waiting).json["status"] == "RUNNING"


async def test_a_long_poll_gives_up_in_time(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        reply = await rig.ask("GET", f"{TASKS}/{task_id}?wait=0.05")
        assert (reply.json["status"], reply.headers["retry-after"]) == ("QUEUED", "1")
        known = reply.headers["etag"]
        reply = await rig.ask("GET", f"{TASKS}/{task_id}?wait=0.05", headers={"if-none-match": known})
        assert reply.status == 304


async def test_lists_are_pages_newest_first(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        made = [await rig.submit(prompt=str(number)) for number in range(7)]
        await rig.ask("DELETE", f"{TASKS}/{made[3]}")
        await projected(rig, made[3], "CANCELLED")
        await projected(rig, made[6], "QUEUED")
        seen: list[str] = []
        more: str | None = ""
        pages = 0
        while more is not None:
            page = (await rig.ask("GET", f"{TASKS}?limit=3{more}")).json
            seen += [task["task_id"] for task in page["tasks"]]
            more = f"&cursor={page['next']}" if page["next"] else None
            pages += 1
        assert pages == 3
        assert seen == made[::-1]
        of_status = (await rig.ask("GET", f"{TASKS}?status=cancelled&kind=image")).json["tasks"]
        assert [task["task_id"] for task in of_status] == [made[3]]
        assert (await rig.ask("GET", f"{TASKS}?kind=speech")).json == {
            "tasks": [],
            "next": None,
            "prev": None,
        }


async def test_the_result_is_where_it_says_once_it_is_there(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        early = await rig.ask("GET", f"{TASKS}/{task_id}/result")
        assert early.refusal() == (409, "not_finished", None)
        assert early.headers["retry-after"] == "1"
        await rig.start(task_id)
        await rig.finish(task_id, b"the picture")
        await rig.ask("GET", f"{TASKS}/{task_id}?wait=30")
        there = await rig.ask("GET", f"{TASKS}/{task_id}/result")
        assert there.status == 303
        assert (await rig.ask("GET", there.headers["location"])).body == b"the picture"


async def test_a_failed_task_has_no_result(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        await rig.start(task_id)
        await rig.fail(task_id)
        shown = await rig.ask("GET", f"{TASKS}/{task_id}?wait=30")
        assert shown.json["error"]["code"] == "boom"
        reply = await rig.ask("GET", f"{TASKS}/{task_id}/result")
        assert reply.refusal() == (409, "no_result", None)


async def test_a_task_is_cancelled_once(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        await rig.start(task_id)
        replies = await asyncio.gather(*(rig.ask("POST", f"{TASKS}/{task_id}/cancel") for _ in range(10)))
        outcomes = sorted(reply.json["outcome"] for reply in replies)
        assert outcomes == ["ALREADY_CANCELLED"] * 9 + ["CANCELLED"]


async def test_a_finished_task_stays_finished(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        await rig.start(task_id)
        await rig.finish(task_id)
        reply = await rig.ask("DELETE", f"{TASKS}/{task_id}")
        assert reply.json["outcome"] == "ALREADY_FINISHED"
        assert (await rig.ask("GET", f"{TASKS}/{task_id}?wait=30")).json["status"] == "DONE"
