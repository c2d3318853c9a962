"""What runs where: models, priorities, backends that turn work away, tickets that nobody can read."""

import asyncio

from schemas.ids import TaskId
from schemas.subjects import Address, Lane
from services import clock
from services.gpusim.model import Fault, ProfileName
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, Json, eventually, finals, types


async def test_a_task_runs_on_a_backend_that_has_its_model(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    await cluster.gpu("IMAGE_GEN_URL_1", models=("qwen-image",))
    await cluster.gpu("IMAGE_GEN_URL_2", models=("Flux.1-dev",), profile=ProfileName.OPENAI)
    await cluster.up()

    async def both_known() -> bool:
        status, answer = await cluster.ask(
            "POST", "/api/v1/image/async", json={"prompt": "x", "model": "no"}
        )
        assert status == 422
        return set(answer.get("allowed") or ()) == {"qwen-image", "Flux.1-dev"}

    await eventually(both_known, "the models of both are known")
    ids = [await cluster.submit(f"fox {n}", model="flux-1-dev") for n in range(3)]

    documents = [await cluster.finished(task_id) for task_id in ids]

    assert {document["attempts"][0]["backend"] for document in documents} == {"image-2"}
    assert {document["status"] for document in documents} == {"DONE"}


async def test_what_is_urgent_runs_first(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    await gpu.script(Fault.HANG)
    first = await cluster.submit("the one that runs")
    await cluster.reached(first, "RUNNING")
    last = first
    for priority in ("low", "normal", "high"):
        body = {"kind": "image", "priority": priority, "request": {"prompt": priority, "steps": 1}}
        status, answer = await cluster.ask("POST", "/api/v1/tasks", json=body)
        assert status == 202, answer
        last = TaskId(answer["task_id"])
    await gpu.clear()
    await cluster.finished(last)

    async def all_drawn() -> list[str] | None:
        jobs = await gpu.jobs()
        drawn = [str(job.prompt) for job in jobs if job.ended_at is not None]
        return drawn if len(drawn) == 4 else None

    assert await eventually(all_drawn, "all are drawn") == ["the one that runs", "high", "normal", "low"]


async def failed_attempts(document: Json) -> list[str]:
    return [attempt["error"]["code"] for attempt in document["attempts"] if attempt["error"]]


async def test_a_backend_that_turns_work_away_costs_the_task_no_try(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(max_attempts=1)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    await cluster.finished(await cluster.submit("it works"))
    for fault in (Fault.BUSY, Fault.REFUSE):
        await gpu.script(fault, count=1, seconds=0.5)
        document = await cluster.finished(await cluster.submit(f"despite {fault}"))
        assert document["status"] == "DONE", document


async def test_a_task_that_fails_every_time_ends_failed_with_its_attempts(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(retry_base_s=0.1)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    await gpu.script(Fault.OOM, count=2)
    document = await cluster.finished(await cluster.submit(max_attempts=2))
    history = await cluster.history(document["task_id"])

    assert document["status"] == "FAILED"
    assert document["error"]["code"] == "backend_oom"
    assert document["error"]["attempts"] == 2
    assert await failed_attempts(document) == ["backend_oom", "backend_oom"]
    assert finals(history) == ["task.failed"]


async def test_an_attempt_that_takes_too_long_is_tried_again_while_its_slot_drains(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(retry_base_s=0.1)
    slow, _ = [await cluster.gpu(f"IMAGE_GEN_URL_{n}") for n in (1, 2)]
    await cluster.up()
    await slow.script(Fault.HANG)
    ids = [await cluster.submit(f"fox {n}", run_timeout_s=2) for n in range(2)]

    documents = [await cluster.finished(task_id) for task_id in ids]

    assert {document["status"] for document in documents} == {"DONE"}
    assert sorted(len(document["attempts"]) for document in documents) == [1, 2]
    retried = max(documents, key=lambda document: len(document["attempts"]))
    assert [attempt["backend"] for attempt in retried["attempts"]] == ["image-1", "image-2"]
    assert await failed_attempts(retried) == ["timeout"]
    assert (await slow.stats()).max_waiting == 1
    await slow.clear()


async def test_a_ticket_that_nobody_can_read_ends_failed_and_blocks_nothing(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    where = Address(Lane("image", "any", "normal", 0), clock.new_task_id())
    async with cluster.log() as (bus, _):
        await bus.publish(f"{where.prefix}.submitted", b"not json", {})

    async def ended() -> Json | None:
        status, document = await cluster.ask("GET", f"/api/v1/tasks/{where.task_id}")
        return document if status == 200 else None

    document = await eventually(ended, "it has ended")

    assert document["status"] == "FAILED"
    assert document["error"]["code"] == "undecodable"
    assert types(await cluster.history(where.task_id)) == ["failed"]
    assert (await cluster.finished(await cluster.submit()))["status"] == "DONE"


async def drain(cluster: Cluster, count: int) -> list[Json]:
    ids = await asyncio.gather(*(cluster.submit(f"fox {n}", width=64, height=64) for n in range(count)))
    return [await cluster.finished(task_id) for task_id in ids]


async def test_dispatchers_share_the_gpus_and_never_send_one_two(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    profiles = (ProfileName.SDCPP, ProfileName.OPENAI, ProfileName.SDCPP)
    for number, profile in enumerate(profiles, 1):
        await cluster.gpu(f"IMAGE_GEN_URL_{number}", step_ms=20.0, profile=profile)
    await cluster.start("projector", "dispatcher-1", "dispatcher-2", "dispatcher-3", "api")

    documents = await drain(cluster, 60)

    assert {document["status"] for document in documents} == {"DONE"}
    assert {document["attempts"][0]["backend"] for document in documents} == {
        "image-1",
        "image-2",
        "image-3",
    }
    assert all(len(document["attempts"]) == 1 for document in documents)
    for gpu in cluster.gpus.values():
        assert (await gpu.stats()).max_waiting == 1
