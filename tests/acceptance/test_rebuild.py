"""The read model made anew while it is served: nothing is missing meanwhile, and it becomes the same."""

import asyncio
import json
import signal
import sys
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types

from schemas import events
from schemas.events import TaskError, TaskFailed, TaskStarted, TaskSubmitted
from schemas.ids import BackendId, TaskId
from schemas.subjects import TASKS, Address, Lane
from services import clock
from tests.acceptance.conftest import MakeCluster
from tests.builders import ENDLESS, image
from tests.cluster import PATIENCE_S, Cluster, Json, eventually

MANY = 3400
"""Tasks, of three events each, for which a builder of its own is started."""


async def rebuild(cluster: Cluster) -> tuple[int, list[Json]]:
    """Run the command, and give its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services", "rebuild", "--json"),
        env=cluster.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert out, err.decode()
    rebuilds: list[Json] = json.loads(out)["rebuilds"]
    assert process.returncode is not None
    return process.returncode, rebuilds


async def filled(cluster: Cluster, tasks: int = MANY) -> list[TaskId]:
    """Put finished tasks into the log, and wait until they can be read."""
    ids = [clock.new_task_id() for _ in range(tasks)]
    stories = (
        TaskSubmitted(submission=image(**ENDLESS)),
        TaskStarted(attempt=1, backend=BackendId("image-1"), dispatcher="test"),
        TaskFailed(error=TaskError(code="boom", message="it broke")),
    )
    async with cluster.log() as (bus, _):
        for number, task_id in enumerate(ids):
            address = Address(Lane("image", "any", "normal", number % 8), task_id)
            for event in stories:
                await bus.send(address.subject(type(event)), events.encode(event), {})
        await bus.publish(*_last(), {}, timeout_s=PATIENCE_S)
    await settled(cluster)
    return ids


def _last() -> tuple[str, bytes]:
    event = TaskSubmitted(submission=image(**ENDLESS))
    address = Address(Lane("image", "any", "normal", 0), clock.new_task_id())
    return address.subject(TaskSubmitted), events.encode(event)


async def settled(cluster: Cluster) -> None:
    """Wait until the read model has everything that the log has."""

    async def caught_up() -> bool:
        status, queues = await cluster.ask("GET", "/api/v1/queues")
        return status == 200 and queues["lag"] == 0

    await eventually(caught_up, "the read model has caught up")


class Reader:
    """Reads tasks by id, one after another, and counts what was not as it should be."""

    def __init__(self, cluster: Cluster, ids: list[TaskId]) -> None:
        self._cluster = cluster
        self._ids = ids
        self.reads = 0
        self.wrong: list[Any] = []  # Any: what came instead

    async def run(self) -> None:
        while True:
            task_id = self._ids[self.reads % len(self._ids)]
            status, document = await self._cluster.ask("GET", f"/api/v1/tasks/{task_id}")
            if status != 200 or document["status"] != "FAILED":
                self.wrong.append((status, document))
            self.reads += 1


async def listed(cluster: Cluster) -> list[Json]:
    status, page = await cluster.ask("GET", "/api/v1/tasks", params={"limit": "200"})
    assert status == 200, page
    return [{**task, "queue": None} for task in page["tasks"]]  # where one stands changes by itself


async def test_a_rebuild_is_not_noticed_and_gives_the_same(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    await cluster.start("projector", "api")
    ids = await filled(cluster)
    before, inode = await listed(cluster), cluster.readmodel.stat().st_ino
    reader = Reader(cluster, ids)
    reading = asyncio.create_task(reader.run())
    code, [told] = await rebuild(cluster)
    reading.cancel()
    assert (code, told["phase"], told["error"]) == (0, "done", None)
    assert told["before"] == told["after"]
    assert told["events"] > 3 * MANY
    assert cluster.readmodel.stat().st_ino != inode
    assert reader.reads > 0
    assert reader.wrong == []
    assert await listed(cluster) == before
    newer = await cluster.submit("after it")
    assert (await cluster.document(newer))["status"] == "QUEUED"
    await settled(cluster)
    assert (await listed(cluster))[0]["task_id"] == newer


async def test_tasks_that_have_left_the_log_are_carried_over(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    await cluster.start("projector", "api")
    ids = await filled(cluster, 50)
    before = await listed(cluster)
    async with cluster.log() as (bus, _):
        await bus.api(f"STREAM.PURGE.{TASKS}", {"seq": 100})  # as if they were too old
    code, [told] = await rebuild(cluster)
    assert (code, told["before"]) == (0, told["after"])
    assert await listed(cluster) == before
    history = await cluster.history(ids[0])
    assert [event["type"] for event in history] == ["task.submitted", "task.started", "task.failed"]


async def test_a_builder_that_dies_leaves_what_is_served_alone(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    [projector, _] = await cluster.start("projector", "api")
    await filled(cluster)
    inode = cluster.readmodel.stat().st_ino
    asking = asyncio.create_task(rebuild(cluster))

    async def builder() -> psutil.Process | None:
        ours = psutil.Process(projector.pid).children()
        return ours[0] if ours else None

    (await eventually(builder, "a builder is at work")).send_signal(signal.SIGKILL)
    code, [told] = await asking
    assert (code, told["phase"]) == (3, "failed")
    assert told["error"]
    assert cluster.readmodel.stat().st_ino == inode
    newer = await cluster.submit("after it")
    await settled(cluster)
    assert (await listed(cluster))[0]["task_id"] == newer
    code, [told] = await rebuild(cluster)
    assert (code, told["phase"]) == (0, "done")


async def test_two_projectors_make_theirs_and_who_asks_in_between_joins(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    await cluster.start("projector", "api")
    await filled(cluster)
    results = await asyncio.gather(rebuild(cluster), rebuild(cluster))
    for code, [told] in results:
        assert (code, told["phase"]) == (0, "done")
    assert {told["sequence"] for _, [told] in results}


async def test_a_rebuild_that_nobody_can_make_is_said_so(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    await cluster.start()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services", "rebuild"),
        env=cluster.environment(),
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 4
    assert b"no projector answers" in err
