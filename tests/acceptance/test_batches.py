"""A batch from its submission to its end, with a real dispatcher and a simulated GPU."""

from tests.acceptance.conftest import MakeCluster
from tests.cluster import Json, eventually

BATCH = "/api/v1/tasks/batch"
TASKS = 60


async def test_a_batch_is_run_and_counted_to_its_end(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    await cluster.gpu("IMAGE_GEN_URL_1", "?slots=4")
    await cluster.up()
    request = {"width": 64, "height": 64, "steps": 2}
    tasks = [{"kind": "image", "request": {"prompt": f"fox {n}", **request}} for n in range(TASKS)]
    later = [{**task, "delay_s": 1} for task in tasks[:10]]
    status, batch = await cluster.ask("POST", BATCH, json={"tasks": [*tasks[10:], *later]})
    assert status == 202, batch

    async def ended() -> Json | None:
        status, shown = await cluster.ask("GET", f"{batch['status_url']}?wait=10")
        assert status == 200, shown
        assert sum(shown["counts"].values()) == shown["size"] == TASKS
        return shown if shown["finished_at"] else None

    document = await eventually(ended, "all have ended")
    ends = [(await cluster.document(task_id))["finished_at"] for task_id in batch["task_ids"]]

    assert document["counts"]["DONE"] == TASKS
    assert document["finished_at"] == max(ends)


async def test_a_batch_that_is_cancelled_ends_where_it_stands(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    await cluster.gpu("IMAGE_GEN_URL_1", step_ms=200.0)
    await cluster.up()
    request = {"prompt": "a fox", "width": 1024, "height": 1024, "steps": 100}
    tasks = [{"kind": "image", "request": request}] * 20
    _, batch = await cluster.ask("POST", BATCH, json={"tasks": tasks})

    async def begun() -> bool:
        _, shown = await cluster.ask("GET", batch["status_url"])
        return bool(shown["counts"]["RUNNING"])

    await eventually(begun, "one runs")
    status, outcome = await cluster.ask("POST", batch["cancel_url"])
    assert (status, outcome["cancelled"]) == (200, 20)
    status, document = await cluster.ask("GET", f"{batch['status_url']}?wait=20")

    assert (document["counts"]["CANCELLED"], document["counts"]["RUNNING"]) == (20, 0)
    assert document["finished_at"] is not None
