"""nats-server, projector and api that die under load: nothing accepted is lost, repeated or shown twice."""

import asyncio
import contextlib

import aiohttp

from schemas.ids import TaskId
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, Json, eventually, finals, types
from tests.stream import Reader


async def load(cluster: Cluster, accepted: list[TaskId], stop: asyncio.Event) -> None:
    """Submit one task after the other; keep what was accepted, and what may have been."""
    number = 0
    while not stop.is_set():
        number += 1
        body = {"prompt": f"fox {number}", "width": 64, "height": 64, "steps": 1}
        with contextlib.suppress(aiohttp.ClientError):
            status, answer = await cluster.ask("POST", "/api/v1/image/async", json=body)
            if status == 202:
                accepted.append(TaskId(answer["task_id"]))
            else:
                assert status == 503, answer
                assert answer["code"] in ("nats_away", "outcome_unknown"), answer


async def test_every_accepted_task_ends_once_when_nats_dies_under_load(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lease_s=3, unknown_run_s=1)
    for number in (1, 2):
        await cluster.gpu(f"IMAGE_GEN_URL_{number}", step_ms=20.0)
    await cluster.up()
    accepted: list[TaskId] = []
    stop = asyncio.Event()

    async def at_least(count: int) -> bool:
        return len(accepted) >= count

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(load(cluster, accepted, stop)) for _ in range(4)]
        for count in (60, 160):
            await eventually(lambda count=count: at_least(count), f"{count} are accepted")  # type: ignore[misc]  # bound now
            cluster.nats.kill()
            cluster.nats.start()
        await eventually(lambda: at_least(240), "240 are accepted")
        stop.set()
        await asyncio.wait(clients)

    for task_id in accepted:
        assert (await cluster.finished(task_id))["status"] == "DONE"
    for task_id in accepted:
        assert finals(await cluster.history(task_id)) == ["task.done"]
    for gpu in cluster.gpus.values():
        assert (await gpu.stats()).max_waiting == 1


async def test_reads_go_on_and_submissions_are_refused_while_nats_is_away(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(submit_timeout_s=0.5)
    await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    task_id = await cluster.submit()
    await cluster.finished(task_id)
    cluster.nats.kill()

    async def refused() -> Json | None:
        async with asyncio.timeout(2.5):
            status, answer = await cluster.ask("POST", "/api/v1/image/async", json={"prompt": "a fox"})
        return answer if status == 503 else None

    answer = await eventually(refused, "a submission is refused")
    assert answer["code"] in ("nats_away", "outcome_unknown")
    assert (await cluster.document(task_id))["status"] == "DONE"
    cluster.nats.start()

    async def accepted() -> bool:
        status, _ = await cluster.ask("POST", "/api/v1/image/async", json={"prompt": "a fox"})
        return status == 202

    await eventually(accepted, "submissions are taken again")


async def test_a_stream_resumes_without_gap_or_repeat_when_projector_and_api_die(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    await cluster.gpu("IMAGE_GEN_URL_1", step_ms=5.0)
    [projector, api] = await cluster.start("projector", "api")
    await cluster.start("dispatcher-1")
    reader = Reader(cluster.http, f"{cluster.url}/api/v1/events", last_event_id=0)
    accepted: list[TaskId] = []
    stop = asyncio.Event()

    async def seen(count: int) -> bool:
        return len(reader.events) >= count

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(reader.run())
        client = group.create_task(load(cluster, accepted, stop))
        await eventually(lambda: seen(30), "30 events are seen")
        projector.kill()
        await cluster.start("projector")
        await eventually(lambda: seen(60), "60 events are seen")
        api.kill()
        await cluster.start("api")
        await eventually(lambda: seen(90), "90 events are seen")
        stop.set()
        await client
        for task_id in accepted:
            await cluster.finished(task_id)

        async def whole() -> bool:
            # Also of the tasks whose acceptance was lost with the api, and which may still run.
            return len(reader.events) == await stored(cluster)

        await eventually(whole, "the reader has seen every event of the stream")
        reading.cancel()
    assert reader.reconnects >= 1
    sequences = [event["sequence"] for event in reader.events]
    assert sequences == sorted(set(sequences)), "repeated or out of order"


async def stored(cluster: Cluster) -> int:
    """Count the events that the stream holds."""
    async with cluster.log() as (bus, _):
        info = await bus.api("STREAM.INFO.TASKS", {"subjects_filter": "task.>"})
    return sum(info["state"]["subjects"].values())


async def test_a_lost_ack_of_an_append_is_no_second_event(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    await cluster.gpu("IMAGE_GEN_URL_1")
    async with cluster.proxy() as proxy:
        await cluster.up()
        before = await cluster.finished(await cluster.submit())
        assert before["status"] == "DONE"
        for token in (b".submitted ", b".started ", b".done "):
            dropped = proxy.drop_answer_to(token)
            task_id = await cluster.submit(f"lost {token.decode()}")
            document = await cluster.finished(task_id)
            assert dropped.is_set(), f"no answer to {token!r} was dropped"
            assert document["status"] == "DONE"
            assert types(await cluster.history(task_id)) == ["submitted", "started", "attached", "done"]
