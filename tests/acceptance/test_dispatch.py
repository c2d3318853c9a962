"""Dispatchers that die, freeze and drain: the work goes on elsewhere and ends once."""

import asyncio
import signal

from services.gpusim.model import Fault, ProfileName
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, at_work, eventually, finals, types


async def drawn(cluster: Cluster, jobs: int) -> bool:
    return (await cluster.gpus["IMAGE_GEN_URL_1"].stats()).jobs.done >= jobs


async def test_a_job_of_a_killed_dispatcher_is_gone_on_with_and_the_gpu_has_run_it_once(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(lease_s=3)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    task_id, first = await cluster.begun(gpu)
    first.kill()
    await cluster.start("dispatcher-2")
    await cluster.told(task_id, "attached", 2)
    await gpu.clear()

    document = await cluster.finished(task_id)

    assert document["status"] == "DONE"
    assert [attempt["error"] for attempt in document["attempts"]] == [None]
    assert types(await cluster.history(task_id)) == ["submitted", "started", "attached", "attached", "done"]
    stats = await gpu.stats()
    assert (stats.jobs.received, stats.jobs.done, stats.max_waiting) == (1, 1, 1)


async def test_a_job_that_ended_while_no_dispatcher_lived_is_fetched(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lease_s=2)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    task_id, first = await cluster.begun(gpu)
    first.kill()
    await gpu.clear()
    await eventually(lambda: drawn(cluster, 1), "the job has ended")
    await cluster.start("dispatcher-2")

    document = await cluster.finished(task_id)

    assert document["status"] == "DONE"
    assert len(document["attempts"]) == 1
    assert (await gpu.stats()).jobs.received == 1


async def test_a_request_of_a_killed_dispatcher_is_made_again_by_another(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lease_s=3, unknown_run_s=3)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1", profile=ProfileName.OPENAI)
    await cluster.start("projector", "api")
    [first] = await cluster.start("dispatcher-1")
    await gpu.script(Fault.HANG)
    task_id = await cluster.submit()
    await cluster.reached(task_id, "RUNNING")
    await at_work(gpu)
    first.kill()
    await cluster.start("dispatcher-2")
    await gpu.clear()

    document = await cluster.finished(task_id)
    history = await cluster.history(task_id)

    assert document["status"] == "DONE"
    assert [a["error"] and a["error"]["code"] for a in document["attempts"]] == ["lost", None]
    assert finals(history) == ["task.done"]
    assert (await gpu.stats()).max_waiting == 1


async def test_a_frozen_dispatcher_that_wakes_up_neither_repeats_nor_overbooks(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(lease_s=2, unknown_run_s=2)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    task_id, sleeper = await cluster.begun(gpu)
    sleeper.freeze()
    await cluster.start("dispatcher-2")
    later = await cluster.submit("a blue whale")

    # The second dispatcher goes on with the job of the first one, and the later task waits for that.
    await cluster.told(task_id, "attached", 2)
    assert (await cluster.document(later))["status"] == "QUEUED"
    sleeper.wake()
    await gpu.clear()
    assert (await cluster.finished(later))["status"] == "DONE"
    document = await cluster.finished(task_id)
    await asyncio.gather(*(cluster.submit(f"fox {n}") for n in range(20)))

    await eventually(lambda: drawn(cluster, 22), "everything is drawn")
    assert document["status"] == "DONE"
    assert len(finals(await cluster.history(task_id))) == 1
    async with cluster.http.get(f"{cluster.url}{document['result_url']}") as answer:
        assert answer.status == 200, "what came too late has not taken the result away"
    stats = await gpu.stats()
    assert (stats.jobs.received, stats.max_waiting) == (22, 1)


async def test_a_draining_dispatcher_finishes_what_it_has_and_takes_no_more(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.start("projector", "api")
    [dispatcher] = await cluster.start("dispatcher-1")
    await gpu.script(Fault.HANG)
    running, waiting = await cluster.submit(), await cluster.submit()
    await at_work(gpu)
    dispatcher.signal(signal.SIGTERM)
    await gpu.clear()

    assert await dispatcher.ended() == 0
    documents = [await cluster.document(task_id) for task_id in (running, waiting)]
    assert sorted(document["status"] for document in documents) == ["DONE", "QUEUED"]
    assert (await gpu.stats()).jobs.received == 1


async def test_a_job_that_does_not_end_within_the_grace_is_gone_on_with_by_another(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(drain_grace_s=0.2)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    task_id, dispatcher = await cluster.begun(gpu)
    dispatcher.signal(signal.SIGTERM)
    assert await dispatcher.ended() == 0
    assert (await cluster.document(task_id))["status"] == "RUNNING"
    await cluster.start("dispatcher-2")
    await cluster.told(task_id, "attached", 2)
    await gpu.clear()

    document = await cluster.finished(task_id)

    assert document["status"] == "DONE"
    assert [attempt["error"] for attempt in document["attempts"]] == [None]
    assert (await gpu.stats()).jobs.received == 1


async def test_a_request_that_does_not_end_within_the_grace_is_handed_back(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(drain_grace_s=0.2, lease_s=2, unknown_run_s=2)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1", profile=ProfileName.OPENAI)
    await cluster.start("projector", "api")
    [dispatcher] = await cluster.start("dispatcher-1")
    await gpu.script(Fault.HANG)
    task_id = await cluster.submit()
    await at_work(gpu)
    dispatcher.signal(signal.SIGTERM)
    assert await dispatcher.ended() == 0
    assert types(await cluster.history(task_id))[-1] == "requeued"
    await cluster.start("dispatcher-2")
    await gpu.clear()

    document = await cluster.finished(task_id)

    assert document["status"] == "DONE"
    assert [attempt["error"] for attempt in document["attempts"]] == [None, None]
    assert (await gpu.stats()).max_waiting == 1


async def test_a_failed_attempt_is_tried_again_on_another_backend(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(retry_base_s=0.2)
    gpus = [await cluster.gpu(f"IMAGE_GEN_URL_{n}") for n in (1, 2)]
    await cluster.up()
    await asyncio.gather(*(gpu.script(Fault.HTTP500) for gpu in gpus[:1]))
    ids = [await cluster.submit(f"fox {n}") for n in range(4)]

    documents = [await cluster.finished(task_id) for task_id in ids]

    assert {document["status"] for document in documents} == {"DONE"}
    retried = [document["attempts"] for document in documents if len(document["attempts"]) > 1]
    assert [[a["backend"] for a in attempts] for attempts in retried] == [["image-1", "image-2"]]
