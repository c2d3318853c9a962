"""Whose turn it is and where it goes: circuits, caps, wishes, loaded models."""

import asyncio
from datetime import datetime

from schemas.ids import TaskId
from services.gpusim.model import Fault, ProfileName
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, Json, eventually
from tests.gpu import Gpu

HOG = {"Taskfold-Tenant": "hog"}
SMALL = {"Taskfold-Tenant": "small"}


async def condition(cluster: Cluster, name: str) -> str:
    status, backend = await cluster.ask("GET", f"/api/v1/backends/{name}")
    assert status == 200, backend
    return str(backend["condition"])


async def is_in(cluster: Cluster, name: str, wanted: str) -> bool:
    return await condition(cluster, name) == wanted


async def started(cluster: Cluster, document: Json) -> list[Json]:
    history = await cluster.history(document["task_id"])
    return [event["data"] for event in history if event["type"] == "task.started"]


async def called(cluster: Cluster, task_id: TaskId) -> tuple[float, float]:
    """Give when its GPU was called, in seconds: the end may be recorded after the next start."""
    data = {event["type"]: event for event in await cluster.history(task_id)}
    began = datetime.fromisoformat(data["task.started"]["time"]).timestamp()
    return began, began + data["task.done"]["data"]["usage"]["run_s"]


async def test_a_backend_that_fails_again_and_again_is_left_alone_until_a_canary_comes_back(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(circuit_failures=2, circuit_open_s=2, retry_base_s=0.05)
    bad, _ = [await cluster.gpu(f"IMAGE_GEN_URL_{n}", step_ms=5.0) for n in (1, 2)]
    await cluster.start("projector", "api", "dispatcher-1", "dispatcher-2")
    await bad.script(Fault.HTTP500, count=2)
    ids = [await cluster.submit(f"fox {n}") for n in range(6)]
    await eventually(lambda: is_in(cluster, "image-1", "failing"), "its circuit is open")
    documents = [await cluster.finished(task_id) for task_id in ids]

    async def back() -> bool:
        # Named, since the other one may be the faster, which gets everything while there is one at a time.
        await cluster.finished(await cluster.submit("a canary", backend="image-1"))
        return await is_in(cluster, "image-1", "up")

    await eventually(back, "its circuit is closed")

    assert {document["status"] for document in documents} == {"DONE"}
    failures = [a["backend"] for d in documents for a in d["attempts"] if a["error"]]
    assert failures == ["image-1", "image-1"]


async def test_the_last_backend_of_a_kind_is_not_left_alone_for_its_failures(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(circuit_failures=2, circuit_open_s=600, retry_base_s=0.05, retry_cap_s=0.1)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    await gpu.script(Fault.HTTP500, count=5)
    document = await cluster.finished(await cluster.submit(max_attempts=6))

    assert (document["status"], len(document["attempts"])) == ("DONE", 6)
    await eventually(lambda: is_in(cluster, "image-1", "up"), "it is up")


async def test_a_gpu_that_does_not_come_free_is_shown_as_stuck_until_it_does(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(stuck_after_s=0.5)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    await gpu.script(Fault.HANG)
    task_id = await cluster.submit()
    await cluster.reached(task_id, "RUNNING")
    await cluster.ask("POST", f"/api/v1/tasks/{task_id}/cancel")
    await eventually(lambda: is_in(cluster, "image-1", "stuck"), "it is stuck")
    later = await cluster.submit("a blue whale")
    assert (await gpu.stats()).max_waiting == 1
    await gpu.clear()

    assert (await cluster.finished(later))["status"] == "DONE"
    await eventually(lambda: is_in(cluster, "image-1", "up"), "it is well again")
    assert (await gpu.stats()).max_waiting == 1


async def test_a_tenant_runs_as_many_at_once_as_it_may_whoever_dispatches(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(tenant_running_limit=2, trust_tenant_header=True)
    for number in range(1, 6):
        await cluster.gpu(f"IMAGE_GEN_URL_{number}", step_ms=40.0)
    await cluster.start("projector", "api", "dispatcher-1", "dispatcher-2", "dispatcher-3")
    hogs = [await cluster.submit(f"fox {n}", headers=HOG) for n in range(8)]
    smalls = [await cluster.submit(f"vole {n}", headers=SMALL) for n in range(2)]
    documents = [await cluster.finished(task_id) for task_id in (*hogs, *smalls)]

    assert {document["status"] for document in documents} == {"DONE"}
    calls = [await called(cluster, task_id) for task_id in hogs]
    most = max(sum(began <= at < ended for began, ended in calls) for at, _ in calls)
    assert most == 2
    assert all(len(document["attempts"]) == 1 for document in documents)


async def test_a_task_that_names_a_backend_waits_for_it_while_others_are_free(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    for number in (1, 2, 3):
        await cluster.gpu(f"IMAGE_GEN_URL_{number}", step_ms=20.0)
    await cluster.up()
    ids = [await cluster.submit(f"fox {n}", backend="image-3") for n in range(4)]
    documents = [await cluster.finished(task_id) for task_id in ids]

    assert {a["backend"] for d in documents for a in d["attempts"]} == {"image-3"}
    status, problem = await cluster.ask(
        "POST", "/api/v1/image/async", json={"prompt": "x", "backend": "image-9"}
    )
    assert (status, problem["member"]) == (422, "backend")
    assert problem["allowed"] == ["image-1", "image-2", "image-3"]


async def named_and_busy(cluster: Cluster, count: int) -> tuple[Gpu, list[TaskId]]:
    """Have two GPUs, and so many tasks that name the second, which hangs on the first of them."""
    await cluster.gpu("IMAGE_GEN_URL_1")
    busy = await cluster.gpu("IMAGE_GEN_URL_2")
    await cluster.up()
    await busy.script(Fault.HANG)
    return busy, [await cluster.submit(f"fox {n}", backend="image-2") for n in range(count)]


async def test_tasks_that_name_a_busy_backend_hold_up_none_of_those_behind_them(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    busy, (first, *named) = await named_and_busy(cluster, 40)
    others = [await cluster.submit(f"owl {n}") for n in range(6)]

    documents = [await cluster.finished(task_id) for task_id in others]

    assert {a["backend"] for d in documents for a in d["attempts"]} == {"image-1"}
    assert (await busy.stats()).jobs.received == 1
    await busy.clear()
    documents = [await cluster.finished(task_id) for task_id in (first, *named)]
    assert [[a["backend"] for a in d["attempts"]] for d in documents] == [["image-2"]] * 40
    last = (await started(cluster, documents[-1]))[-1]
    assert last["decision"]["reason"] == "the backend that the task names"


async def test_what_waits_for_a_backend_runs_elsewhere_when_that_goes_out_of_service(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    busy, (first, *named) = await named_and_busy(cluster, 4)
    await cluster.reached(first, "RUNNING")
    await cluster.finished(await cluster.submit("comes after them"))
    status, answer = await cluster.ask("PATCH", "/api/v1/backends/image-2", json={"wanted": "draining"})
    assert status == 200, answer

    documents = [await cluster.finished(task_id) for task_id in named]

    assert [[a["backend"] for a in d["attempts"]] for d in documents] == [["image-1"]] * 3
    await busy.clear()


async def test_what_an_instance_can_do_is_another_name_of_its_model(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    for n, models in enumerate(("qwen", "qwen,qwen-4k=qwen"), 1):
        await cluster.gpu(
            f"IMAGE_GEN_URL_{n}", f"?models={models}", profile=ProfileName.OPENAI, models=("qwen",)
        )
    await cluster.up()
    ids = [await cluster.submit(f"fox {n}", model="qwen-4k") for n in range(3)]
    documents = [await cluster.finished(task_id) for task_id in ids]
    starts = [(await started(cluster, document))[-1] for document in documents]

    assert {start["backend"] for start in starts} == {"image-2"}
    assert {start["model"] for start in starts} == {"qwen"}, "the server is asked by its own name"


async def test_a_user_s_tasks_go_to_the_same_backend_while_it_is_free(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(balancing_image="user_affinity")
    for number in (1, 2, 3):
        await cluster.gpu(f"IMAGE_GEN_URL_{number}")
    await cluster.up()
    where: dict[str, set[str]] = {}
    for n in range(12):
        user = f"user-{n % 4}"
        document = await cluster.finished(await cluster.submit(f"fox {n}", user=user))
        where.setdefault(user, set()).add(document["attempts"][0]["backend"])

    assert all(len(backends) == 1 for backends in where.values()), where
    assert len(set.union(*where.values())) > 1, "not all users go to one"


async def test_a_model_is_loaded_once_where_taking_turns_would_load_it_each_time(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster()
    gpus = [
        await cluster.gpu(
            f"IMAGE_GEN_URL_{n}", profile=ProfileName.OPENAI, models=("qwen", "flux"), load_s=0.3
        )
        for n in (1, 2)
    ]
    await cluster.up()
    await eventually(lambda: is_in(cluster, "image-2", "up"), "both are up")
    documents = []
    for n in range(10):
        wanted = [cluster.submit(f"fox {n}", model=model) for model in ("qwen", "flux")]
        ids = await asyncio.gather(*wanted)
        documents += [await cluster.finished(task_id) for task_id in ids]

    by_model = [(d["request"]["model"], d["attempts"][0]["backend"]) for d in documents]
    assert len(set(by_model)) == 2, "each model has its backend"
    assert sum([(await gpu.stats()).loads for gpu in gpus]) == 1
    decision = (await started(cluster, documents[-1]))[-1]["decision"]
    assert decision["policy"] == "least_expected_completion"
    assert {candidate["backend"] for candidate in decision["candidates"]} == {"image-1", "image-2"}
