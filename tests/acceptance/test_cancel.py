"""Cancelling: what waits dies there, what runs is stopped and its GPU not overbooked, races end once."""

import asyncio
from datetime import timedelta

from schemas.ids import TaskId
from services import clock
from services.gpusim.model import Fault
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, Json, eventually, finals, types

RACES = 100


async def cancel(cluster: Cluster, task_id: TaskId) -> Json:
    status, answer = await cluster.ask("POST", f"/api/v1/tasks/{task_id}/cancel")
    assert status == 200, answer
    return answer


async def test_a_queued_task_that_is_cancelled_never_reaches_a_gpu(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    await gpu.script(Fault.HANG)
    first, second = await cluster.submit(), await cluster.submit()
    await cluster.reached(first, "RUNNING")

    assert (await cancel(cluster, second))["outcome"] == "CANCELLED"
    assert (await cluster.document(second))["status"] == "CANCELLED"
    assert (await cancel(cluster, second))["outcome"] == "ALREADY_CANCELLED"
    await gpu.clear()
    assert (await cluster.finished(first))["status"] == "DONE"
    third = await cluster.finished(await cluster.submit())

    assert third["status"] == "DONE"
    assert (await gpu.stats()).jobs.received == 2
    assert types(await cluster.history(second)) == ["submitted", "cancelled"]
    assert (await cancel(cluster, first))["outcome"] == "ALREADY_FINISHED"


async def test_a_running_task_is_cancelled_at_once_and_its_slot_drains(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    await gpu.script(Fault.HANG)
    running = await cluster.submit()
    await cluster.reached(running, "RUNNING")

    async def at_work() -> bool:
        return (await gpu.stats()).running == 1

    await eventually(at_work, "the GPU works")
    assert (await cancel(cluster, running))["outcome"] == "CANCELLED"
    assert (await cluster.document(running))["status"] == "CANCELLED"
    waiting = await cluster.submit("after it")
    await gpu.clear()

    assert (await cluster.finished(waiting))["status"] == "DONE"
    assert (await gpu.stats()).max_waiting == 1
    assert finals(await cluster.history(running)) == ["task.cancelled"]


async def test_a_delayed_task_that_is_cancelled_never_starts(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    task_id = await cluster.submit(delay_s=3600)
    assert (await cluster.document(task_id))["status"] == "SCHEDULED"

    assert (await cancel(cluster, task_id))["outcome"] == "CANCELLED"

    async with cluster.log() as (bus, _):
        info = await bus.api("STREAM.INFO.TASKS", {"subjects_filter": "sched.>"})
    assert not info["state"].get("subjects")
    assert (await cluster.document(task_id))["status"] == "CANCELLED"
    assert (await gpu.stats()).jobs.received == 0


async def test_delayed_tasks_cancelled_as_they_fire_end_exactly_once(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(queue_limit=1000)
    await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    fires_at = clock.now() + timedelta(seconds=6)
    ids = [
        await cluster.submit(width=64, height=64, steps=1, not_before=fires_at.isoformat())
        for _ in range(RACES)
    ]
    assert clock.now() < fires_at, "this machine is too slow to submit them all before they fire"

    async def at_the_instant(number: int, task_id: TaskId) -> None:
        # Schedules fire up to a quarter of a second late, so the cancels are spread over that time.
        wait_s = (fires_at - clock.now()).total_seconds() + 0.3 * number / RACES
        await asyncio.sleep(max(0.0, wait_s))
        await cancel(cluster, task_id)

    async with asyncio.TaskGroup() as group:
        for number, task_id in enumerate(ids):
            group.create_task(at_the_instant(number, task_id))
    for task_id in ids:
        await cluster.finished(task_id)

    async with cluster.log() as (_, log):
        for task_id in ids:
            found = await log.lookup(task_id)
            names = [type(r.event).__name__ for r in found.history]
            ends = [n for n in names if n in ("TaskDone", "TaskCancelled", "TaskFailed", "TaskExpired")]
            assert len(ends) == 1, names
            shown = types(await cluster.history(task_id))
            assert len([n for n in shown if n in ("done", "cancelled")]) == 1
    await eventually(lambda: all_acked(cluster), "every ticket is acked, those of cancelled tasks too")


async def all_acked(cluster: Cluster) -> bool:
    async with cluster.log() as (bus, _):
        page = await bus.api("CONSUMER.LIST.TASKS", {"offset": 0})
    lanes = [c for c in page["consumers"] if c["name"].startswith("image-")]
    return all(c["num_pending"] == 0 and c["num_ack_pending"] == 0 for c in lanes)
