"""Streams that begin anew with tasks as they are, and streams that end."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from schemas.ids import TaskId
from services.projector import main as projector
from tests.api import Json, Rig, beside, running, settings_for, until_ready
from tests.integration.test_api_batches import accepted, images
from tests.integration.test_api_sse import Frame, Listener, listening, types
from tests.integration.test_pruning import ended, prune_all
from tests.nats import NatsServer

TASKS: Final = "/api/v1/tasks"
EVENTS: Final = "/api/v1/events"
AS_JSON: Final = {"Accept": "application/json"}
BEYOND: Final = 1_000_000


async def frames(rig: Rig, path: str, after: int | None, count: int) -> list[Frame]:
    """Read so many frames, and leave."""
    found: list[Frame] = []
    async with asyncio.timeout(15), listening(rig, path, after) as listener:
        async for frame in listener.frames():
            found.append(frame)
            if len(found) == count:
                break
    return found


def shown(told: Sequence[Frame]) -> list[str]:
    return [frame.data["task_id"] for frame in told if frame.event == "task.snapshot"]


async def reached(rig: Rig, sequence: int) -> None:
    reply = await rig.ask("GET", "/api/v1/queues", headers={"Taskfold-Sequence": str(sequence)})
    assert reply.status == 200


class Pruned(Struct, frozen=True):
    """A log of which the first tasks have gone: what a client saw of them, and who is there still."""

    seen: int
    gone: int
    left: list[TaskId]


async def pruned(rig: Rig, left: int) -> Pruned:
    seen = await ended(rig)
    gone = await ended(rig)
    ids = [await rig.submit(user=("ada", "bob")[number % 2]) for number in range(left)]
    assert await prune_all(rig) == 2
    return Pruned(seen, gone, ids)


async def test_who_asks_for_what_is_gone_is_shown_what_there_is_and_goes_on(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        world = await pruned(rig, 4)
        await reached(rig, world.gone + 4)
        reset, *documents, end = await frames(rig, EVENTS, world.seen, 6)
        assert (reset.id, reset.event) == (None, "reset")
        assert reset.data == {
            "type": "reset",
            "sequence": world.gone + 4,
            "oldest": world.gone + 1,
            "reason": "retention",
        }
        assert shown(documents) == world.left[::-1]
        document = (await rig.ask("GET", f"{TASKS}/{world.left[-1]}")).json
        assert {**documents[0].data, "queue": None} == {**document, "queue": None}
        assert (end.id, end.event) == (world.gone + 4, "snapshot")
        assert end.data == {"type": "snapshot", "sequence": end.id, "tasks": 4, "complete": True}

        following = await rig.start(world.left[0])
        [frame] = await frames(rig, EVENTS, end.id, 1)
        assert (frame.id, frame.event) == (following, "task.started")


async def test_a_snapshot_shows_what_the_filter_means(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        world = await pruned(rig, 5)
        await reached(rig, world.gone + 5)
        for query, expected in {
            "user=bob": [world.left[3], world.left[1]],
            "user=ada&type=failed": [world.left[4], world.left[2], world.left[0]],
            "status=RUNNING": [],
            "status=DONE": [],
            "text=fox&user=bob": [world.left[3], world.left[1]],
        }.items():
            told = await frames(rig, f"{EVENTS}?{query}", world.seen, len(expected) + 2)
            assert [frame.event for frame in (told[0], told[-1])] == ["reset", "snapshot"], query
            assert shown(told) == expected, query


async def test_who_is_cut_off_in_a_snapshot_gets_it_again_whole(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        world = await pruned(rig, 3)
        await reached(rig, world.gone + 3)
        for after, reason in ((world.seen, "retention"), (BEYOND, "unknown")):
            for cut in (1, 2, 4):
                part = await frames(rig, EVENTS, after, cut)
                ids = [frame.id for frame in part if frame.id is not None]
                resumed = ids[-1] if ids else after
                assert resumed == (0 if reason == "unknown" else after)
                again = await frames(rig, EVENTS, resumed, 5)
                assert again[0].event == "reset"
                assert shown(again) == world.left[::-1]
                assert (again[-1].id, again[-1].event) == (world.gone + 3, "snapshot")


async def test_a_client_that_wants_to_is_shown_what_there_is(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        first, second = [await rig.submit(user=user) for user in ("ada", "bob")]
        await reached(rig, 2)
        told = await frames(rig, f"{EVENTS}?user=bob&last_event_id=snapshot", None, 3)
        assert told[0].data["reason"] == "asked"
        assert shown(told) == [second]
        own = await frames(rig, f"{TASKS}/{first}/events?last_event_id=snapshot", None, 3)
        assert [frame.event for frame in own] == ["reset", "task.snapshot", "snapshot"]
        refused = await rig.ask("GET", f"{EVENTS}?last_event_id=snapshot", headers=AS_JSON)
        assert refused.refusal() == (422, "out_of_range", "last_event_id")


async def test_a_replica_that_is_behind_gets_there_and_repeats_nothing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path, sse_heartbeat_s=0.2)
    async with running(settings, projected=False) as rig:
        async with beside(projector.serve, settings):
            await until_ready(rig, projected=True)
            task_id = await rig.submit()
            await reached(rig, 1)
        started = await rig.start(task_id)
        headers = {"last-event-id": str(started)}
        async with rig.session.get(rig.url + EVENTS, headers=headers) as answer, asyncio.timeout(30):
            lines = Listener(answer).lines()
            assert [await anext(lines) for _ in range(9)] == [b"retry: 2000"] + [b": heartbeat"] * 8
            failed = await rig.fail(task_id)
            async with beside(projector.serve, settings):
                while (line := await anext(lines)) == b": heartbeat":
                    pass
        assert line.startswith(b"id: %d\nevent: task.failed" % failed)


async def test_a_sequence_that_the_log_has_not_got_is_unknown(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        await reached(rig, 1)
        reset, document, end = await frames(rig, EVENTS, BEYOND, 3)
        assert (reset.id, reset.data["reason"], document.data["task_id"]) == (0, "unknown", task_id)
        assert (end.id, end.data["tasks"]) == (1, 1)


async def finish(rig: Rig, batch: Json) -> int:
    """Let the tasks of a batch end; gives the sequence of its last event."""
    last = 0
    for task_id in batch["task_ids"]:
        await rig.start(TaskId(task_id))
        last = await rig.fail(TaskId(task_id))
    return last


STORY: Final = ["task.submitted"] * 3 + ["task.started", "task.failed"] * 3


async def test_a_batch_tells_the_story_of_its_tasks_and_ends_with_the_last(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path, sse_coalesce_s=0.01)) as rig:
        await rig.submit()
        batch = await accepted(rig, images(3))
        path = batch["events_url"]
        story = asyncio.ensure_future(types(rig, path))
        async with listening(rig, f"{EVENTS}?batch={batch['batch_id']}", 0) as wide:
            last = await finish(rig, batch)
            assert await story == STORY
            assert await types(rig, path) == STORY
            assert await types(rig, path, last - 1) == STORY[-1:]
            assert (await rig.ask("GET", path, headers={"last-event-id": str(last)})).status == 204
            assert (await rig.ask("GET", f"{path}?last_event_id={last}")).status == 204
            whole = (await rig.ask("GET", path, headers=AS_JSON)).json
            assert [event["type"] for event in whole["events"]] == STORY
            assert (whole["next"], whole["events"][-1]["sequence"]) == (None, last)
            late = {**AS_JSON, "last-event-id": str(last)}
            assert (await rig.ask("GET", path, headers=late)).json == {"events": [], "next": None}
            async with asyncio.timeout(10):
                told = wide.frames()
                assert [(await anext(told)).event for _ in STORY] == STORY
                task_id = await rig.submit()
                assert (await rig.ask("GET", f"{TASKS}/{task_id}")).status == 200
            assert not wide.ended


async def test_a_batch_can_be_followed_from_the_moment_of_its_answer(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path, sse_coalesce_s=0)) as rig:
        for _ in range(10):
            batch = await accepted(rig, images(3))
            told = await frames(rig, batch["events_url"], None, 3)
            assert [frame.data["task_id"] for frame in told] == batch["task_ids"]
        unknown = "01999999-0000-7000-8000-000000000000"
        reply = await rig.ask("GET", f"/api/v1/batches/{unknown}/events")
        assert reply.refusal() == (404, "unknown_batch", None)


async def test_a_batch_of_which_tasks_are_gone_begins_anew_and_ends(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        batch = await accepted(rig, images(3))
        first, *others = [TaskId(one) for one in batch["task_ids"]]
        await rig.start(first)
        await reached(rig, await rig.fail(first))
        assert await prune_all(rig) == 1
        told = await frames(rig, batch["events_url"], None, 4)
        assert [frame.event for frame in told] == ["reset", "task.snapshot", "task.snapshot", "snapshot"]
        assert shown(told) == [str(one) for one in reversed(others)]
        story = asyncio.ensure_future(types(rig, batch["events_url"], told[-1].id))
        await finish(rig, {"task_ids": others})
        assert await story == ["task.started", "task.failed"] * 2
