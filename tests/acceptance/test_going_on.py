"""What a dispatcher left behind on a GPU, in every state it can be in when the next one finds it."""

import signal
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from services.gpusim.model import Fault, ProfileName
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, Json, at_work, eventually, finals, types
from tests.gpu import Gpu

WORKFLOW = Path(__file__).parents[2] / "deploy" / "comfyui" / "text-to-image.json"
URL = "IMAGE_GEN_URL_1"
RESUMING = pytest.mark.parametrize("profile", [ProfileName.SDCPP, ProfileName.COMFYUI])


async def resuming(cluster: Cluster, profile: ProfileName) -> Gpu:
    """Start a GPU whose jobs can be found again by an id."""
    if profile is ProfileName.COMFYUI:
        models = ("sd_xl_base_1.0.safetensors",)
        return await cluster.gpu(URL, f"?workflow={WORKFLOW}", profile=profile, models=models)
    return await cluster.gpu(URL, profile=profile)


async def stuck(cluster: Cluster) -> None:
    async def look() -> bool:
        _, backend = await cluster.ask("GET", "/api/v1/backends/image-1")
        return bool(backend["condition"] == "stuck")

    await eventually(look, "the slot drains", 20)


def errors(document: Json) -> list[str | None]:
    return [attempt["error"] and attempt["error"]["code"] for attempt in document["attempts"]]


@RESUMING
async def test_a_job_that_its_gpu_has_forgotten_is_made_again(
    make_cluster: MakeCluster, profile: ProfileName
) -> None:
    cluster = make_cluster(lease_s=2)
    gpu = await resuming(cluster, profile)
    task_id, first = await cluster.begun(gpu)
    first.kill()
    await gpu.crash()
    await cluster.start("dispatcher-2")
    document = await cluster.finished(task_id)

    assert document["status"] == "DONE"
    assert [bool(error) for error in errors(document)] == [True, False]
    assert finals(await cluster.history(task_id)) == ["task.done"]
    stats = await gpu.stats()
    assert (stats.jobs.received, stats.max_waiting) == (2, 1)


@RESUMING
async def test_a_cancel_while_no_dispatcher_lives_counts_at_once_and_its_gpu_is_waited_for(
    make_cluster: MakeCluster, profile: ProfileName
) -> None:
    cluster = make_cluster(lease_s=2, stuck_after_s=0.5)
    gpu = await resuming(cluster, profile)
    task_id, first = await cluster.begun(gpu)
    first.kill()
    status, answer = await cluster.ask("POST", f"/api/v1/tasks/{task_id}/cancel")
    assert (status, answer["outcome"]) == (200, "CANCELLED")
    assert (await cluster.document(task_id))["status"] == "CANCELLED"
    later = await cluster.submit("a blue whale")
    await cluster.start("dispatcher-2")
    await stuck(cluster)
    assert (await cluster.document(later))["status"] == "QUEUED"
    await gpu.clear()

    assert (await cluster.finished(later))["status"] == "DONE"
    assert types(await cluster.history(task_id))[-1] == "cancelled"
    stats = await gpu.stats()
    assert (stats.jobs.received, stats.max_waiting) == (2, 1)


@RESUMING
async def test_a_job_on_a_drained_backend_is_gone_on_with_and_no_other_begins_there(
    make_cluster: MakeCluster, profile: ProfileName
) -> None:
    cluster = make_cluster(lease_s=2)
    gpu = await resuming(cluster, profile)
    task_id, first = await cluster.begun(gpu)
    status, answer = await cluster.ask("PATCH", "/api/v1/backends/image-1", json={"wanted": "draining"})
    assert (status, answer["wanted"]) == (200, "draining"), answer
    first.kill()
    later = await cluster.submit("a blue whale")
    await cluster.start("dispatcher-2")
    await cluster.told(task_id, "attached", 2)
    await gpu.clear()

    document = await cluster.finished(task_id)

    assert (document["status"], errors(document)) == ("DONE", [None])
    assert (await cluster.document(later))["status"] == "QUEUED"
    assert (await gpu.stats()).jobs.received == 1


@RESUMING
async def test_the_run_timeout_counts_from_the_start_of_the_attempt_whoever_has_it(
    make_cluster: MakeCluster, profile: ProfileName
) -> None:
    cluster = make_cluster(lease_s=2)
    gpu = await resuming(cluster, profile)
    task_id, first = await cluster.begun(gpu, run_timeout_s=4, max_attempts=1)
    first.kill()
    await cluster.start("dispatcher-2")
    await cluster.told(task_id, "attached", 2)
    document = await cluster.finished(task_id)
    history = await cluster.history(task_id)

    assert (document["status"], errors(document)) == ("FAILED", ["timeout"])
    at = {event["type"]: datetime.fromisoformat(event["time"]) for event in history}
    taken_over, ended = at["task.attached"], at["task.failed"]
    assert ended - at["task.started"] >= timedelta(seconds=3.9)
    assert ended - taken_over < timedelta(seconds=3.5), "not anew from the take-over"
    await gpu.clear()


@RESUMING
async def test_of_two_that_could_go_on_with_a_job_one_does(
    make_cluster: MakeCluster, profile: ProfileName
) -> None:
    cluster = make_cluster(lease_s=2)
    gpu = await resuming(cluster, profile)
    task_id, first = await cluster.begun(gpu)
    await cluster.start("dispatcher-2", "dispatcher-3")
    status_is_known = await cluster.submit("a blue whale", backend="image-1")
    first.kill()
    await cluster.told(task_id, "attached", 2)
    await gpu.clear()
    for each in (task_id, status_is_known):
        assert (await cluster.finished(each))["status"] == "DONE"

    expected = ["submitted", "started", "attached", "attached", "done"]
    assert types(await cluster.history(task_id)) == expected
    stats = await gpu.stats()
    assert (stats.jobs.received, stats.max_waiting) == (2, 1)


async def test_a_request_that_was_handed_back_at_work_is_waited_for_by_the_next_dispatcher(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(drain_grace_s=0.2, lease_s=2, unknown_run_s=600, stuck_after_s=0.5)
    gpu = await cluster.gpu(URL, profile=ProfileName.A1111)
    await cluster.start("projector", "api")
    [first] = await cluster.start("dispatcher-1")
    await gpu.script(Fault.HANG)
    task_id = await cluster.submit()
    await at_work(gpu)
    first.signal(signal.SIGTERM)
    assert await first.ended() == 0
    assert types(await cluster.history(task_id))[-1] == "requeued"
    await cluster.start("dispatcher-2")
    await stuck(cluster)
    assert (await cluster.document(task_id))["status"] == "QUEUED"
    await gpu.clear()

    assert (await cluster.finished(task_id))["status"] == "DONE"
    assert (await gpu.stats()).max_waiting == 1


async def test_a_dispatcher_that_lost_its_slot_between_two_pictures_does_not_ask_for_the_second(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(lease_s=2, unknown_run_s=600, stuck_after_s=0.5, retry_base_s=0.1)
    gpu = await cluster.gpu(URL, profile=ProfileName.A1111)
    await cluster.start("projector", "api")
    [sleeper] = await cluster.start("dispatcher-1")
    await gpu.script(Fault.HANG)
    task_id = await cluster.submit(n=2)
    await at_work(gpu)
    sleeper.freeze()
    later = await cluster.submit("a blue whale")
    await cluster.start("dispatcher-2")
    await stuck(cluster)
    await gpu.clear()
    await gpu.script(Fault.HANG)
    await cluster.reached(later, "RUNNING")
    await at_work(gpu)
    sleeper.wake()
    await cluster.told(task_id, "attempt_failed")
    await gpu.clear()

    for each in (task_id, later):
        assert (await cluster.finished(each))["status"] == "DONE"
    assert (await gpu.stats()).max_waiting == 1
