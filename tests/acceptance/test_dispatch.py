"""Dispatchers that die, freeze and drain: the work goes on elsewhere and ends once."""

import asyncio
import signal

from services.gpusim.model import Fault
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, eventually, finals, types


async def busy(cluster: Cluster, variable: str) -> bool:
    return (await cluster.gpus[variable].stats()).running == 1


async def test_a_task_of_a_killed_dispatcher_is_finished_by_another(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(lease_s=3, unknown_run_s=3)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.start("projector", "api")
    [first] = await cluster.start("dispatcher-1")
    await gpu.script(Fault.HANG)
    task_id = await cluster.submit()
    await cluster.reached(task_id, "RUNNING")
    await eventually(lambda: busy(cluster, "IMAGE_GEN_URL_1"), "the GPU works")
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
    await cluster.start("projector", "api")
    [sleeper] = await cluster.start("dispatcher-1")
    await gpu.script(Fault.HANG)
    task_id = await cluster.submit()
    await eventually(lambda: busy(cluster, "IMAGE_GEN_URL_1"), "the GPU works")
    sleeper.freeze()
    [second] = await cluster.start("dispatcher-2")
    later = await cluster.submit("a blue whale")

    async def taken_over() -> bool:
        return "slot.recovering" in second.log.read_text()

    # The second dispatcher takes the slot over, waits for the GPU that is still at work for the first one,
    # and runs the later task there while the first one sleeps.
    await eventually(taken_over, "the slot is taken over")
    assert (await cluster.document(later))["status"] == "QUEUED"
    await gpu.clear()
    assert (await cluster.finished(later))["status"] == "DONE"
    sleeper.wake()
    document = await cluster.finished(task_id)
    await asyncio.gather(*(cluster.submit(f"fox {n}") for n in range(20)))

    async def all_done() -> bool:
        return (await gpu.stats()).jobs.done >= 22

    await eventually(all_done, "everything is drawn")
    assert document["status"] == "DONE"
    assert len(finals(await cluster.history(task_id))) == 1
    assert (await gpu.stats()).max_waiting == 1


async def test_a_draining_dispatcher_finishes_what_it_has_and_takes_no_more(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.start("projector", "api")
    [dispatcher] = await cluster.start("dispatcher-1")
    await gpu.script(Fault.HANG)
    running, waiting = await cluster.submit(), await cluster.submit()
    await eventually(lambda: busy(cluster, "IMAGE_GEN_URL_1"), "the GPU works")
    dispatcher.signal(signal.SIGTERM)
    await gpu.clear()

    assert await dispatcher.ended() == 0
    documents = [await cluster.document(task_id) for task_id in (running, waiting)]
    assert sorted(document["status"] for document in documents) == ["DONE", "QUEUED"]
    assert (await gpu.stats()).jobs.received == 1


async def test_a_dispatcher_hands_back_what_does_not_end_within_its_grace(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(drain_grace_s=0.2, lease_s=2, unknown_run_s=2)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.start("projector", "api")
    [dispatcher] = await cluster.start("dispatcher-1")
    await gpu.script(Fault.HANG)
    task_id = await cluster.submit()
    await eventually(lambda: busy(cluster, "IMAGE_GEN_URL_1"), "the GPU works")
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
