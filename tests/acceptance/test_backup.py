"""A whole system saved while it works, lost, and restored: what it shows and does is what it was."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import Struct

from schemas import readmodel, subjects
from schemas.ids import TaskId
from services import clock
from services.gpusim.model import Fault
from services.projector.checksum import checksum
from tests import documents
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, Json, Process, eventually, finals, types
from tests.gpu import Gpu

OURS = (sys.executable, "-m", "services")
THEIRS = (documents.nats_cli() or "nats",)
needs_nats = pytest.mark.skipif(
    documents.nats_cli() is None,
    reason="the nats CLI is not installed: go install github.com/nats-io/natscli/nats@v0.5.0",
)
SAVE = {OURS: ("backup",), THEIRS: ("backup", "account", "--force")}
RESTORE = {OURS: ("restore",), THEIRS: ("backup", "restore", "account")}
BATCH = 3


class Tasks(Struct, frozen=True):
    """One task or more in each state at the time of the backup; ``soon`` is due after it."""

    done: list[TaskId]
    failed: TaskId
    cancelled: TaskId
    later: TaskId
    soon: TaskId
    queued: list[TaskId]
    running: TaskId

    @property
    def settled(self) -> list[TaskId]:
        """Those of which nothing is told until a dispatcher comes, and their time."""
        return [*self.done, self.failed, self.cancelled, self.later, *self.queued, self.running]


async def of_every_kind(cluster: Cluster, gpu: Gpu, soon_s: float) -> Tasks:
    """Make them, and end with a queue that is paused, a GPU that hangs and one that is taken out."""
    other = {"name": "image-2", "kind": "image", "url": (await cluster.gpu("IMAGE_GEN_URL_2")).url}
    status, answer = await cluster.ask("POST", "/api/v1/backends", json={**other, "wanted": "off"})
    assert status == 201, answer
    done = [await cluster.submit(f"fox {n}") for n in range(BATCH)]
    for task_id in done:
        assert (await cluster.finished(task_id))["status"] == "DONE"
    await gpu.script(Fault.HTTP500)
    failed = await cluster.submit("an owl", max_attempts=1)
    assert (await cluster.finished(failed))["status"] == "FAILED"
    cancelled = await cluster.submit("a hare", delay_s=3600)
    await cluster.ask("POST", f"/api/v1/tasks/{cancelled}/cancel")
    later = await cluster.submit("a swan", delay_s=3600)
    await gpu.script(Fault.HANG)
    running = await cluster.submit("a whale")
    await cluster.told(running, "attached")
    status, _ = await cluster.ask("POST", "/api/v1/queues/image/pause", json={"reason": "moving"})
    assert status == 200
    queued = [await cluster.submit(f"hedgehog {n}") for n in range(BATCH)]
    due = clock.now() + timedelta(seconds=soon_s)
    soon = await cluster.submit("a crow", not_before=due.isoformat())
    return Tasks(done, failed, cancelled, later, soon, queued, running)


async def shown(cluster: Cluster, ids: list[TaskId]) -> list[tuple[Json, list[Json], list[str]]]:
    """Give documents, histories and artifacts; not where a task stands in line, nor how far it is."""
    found = []
    for task_id in ids:
        document = await cluster.document(task_id)
        digests = [await digest(cluster, artifact) for artifact in document["artifacts"] or ()]
        moving = ("progress", "queue")
        kept = {key: value for key, value in document.items() if key not in moving}
        found.append((kept, await cluster.history(task_id), digests))
    return found


async def digest(cluster: Cluster, artifact: Json) -> str:
    async with cluster.http.get(f"{cluster.url}{artifact['url']}") as answer:
        assert answer.status == 200
        found = hashlib.sha256(await answer.read()).hexdigest()
    assert found == artifact["sha256"]
    return found


async def standing(cluster: Cluster, tasks: Tasks) -> Json:
    """Give what the lists show: tasks in their order, pauses, the GPU that was taken out."""
    _, listed = await cluster.ask("GET", "/api/v1/tasks", params={"limit": "100"})
    _, queues = await cluster.ask("GET", "/api/v1/queues")
    _, backend = await cluster.ask("GET", "/api/v1/backends/image-2")
    return {
        "tasks": [
            (task["task_id"], task["status"]) for task in listed["tasks"] if task["task_id"] != tasks.soon
        ],
        "pauses": [queue["pauses"] for queue in queues["queues"] if queue.get("pauses")],
        "backend": (backend["wanted"], backend["url"]),
    }


async def run(cluster: Cluster, *command: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=documents.ROOT,
        env={**os.environ, **cluster.environment(), "NATS_URL": cluster.nats.url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-2000:]}"


both_ways = pytest.mark.parametrize(
    ("saver", "restorer"),
    [
        pytest.param(OURS, OURS, id="taskfold-taskfold"),
        pytest.param(OURS, THEIRS, id="taskfold-nats", marks=needs_nats),
        pytest.param(THEIRS, OURS, id="nats-taskfold", marks=needs_nats),
    ],
)


@both_ways
async def test_the_read_model_made_from_restored_streams_is_equal_row_for_row(
    make_cluster: MakeCluster, tmp_path: Path, saver: tuple[str, ...], restorer: tuple[str, ...]
) -> None:
    cluster = make_cluster(lease_s=2)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    processes = await cluster.start("projector", "dispatcher-1", "api")
    tasks = await of_every_kind(cluster, gpu, soon_s=3600)
    before, rows = await shown(cluster, tasks.settled), await folded(cluster)

    await run(cluster, *saver, *SAVE[saver], str(tmp_path / "backup"))
    assert await folded(cluster) == rows, "nothing happened meanwhile"
    await lost(cluster, processes, keeps_its_file=False)
    await run(cluster, *restorer, *RESTORE[restorer], str(tmp_path / "backup"))
    await cluster.start("projector", "api")

    assert await folded(cluster) == rows
    assert await shown(cluster, tasks.settled) == before, "artifacts by their digests too"


async def folded(cluster: Cluster) -> tuple[int, str]:
    """Wait until the read model has all of the log, and give up to where that is, and its checksum."""

    last = {"last_by_subj": subjects.TASK_EVENTS}
    async with cluster.log() as (bus, _):
        told = await bus.api(f"STREAM.MSG.GET.{subjects.TASKS}", last)

    async def look() -> tuple[int, str] | None:
        database = sqlite3.connect(f"{cluster.readmodel.resolve().as_uri()}?mode=ro", uri=True)
        with contextlib.closing(database):
            database.execute("BEGIN")
            [(sequence, *_)] = database.execute(readmodel.GET_CHECKPOINT).fetchall()
            return (sequence, checksum(database)) if sequence == told["message"]["seq"] else None

    return await eventually(look, "the read model has all of the log", 20)


@both_ways
@pytest.mark.parametrize("keeps_its_file", [True, False], ids=["file-kept", "file-lost"])
async def test_what_was_restored_shows_the_same_and_goes_on(
    make_cluster: MakeCluster,
    tmp_path: Path,
    saver: tuple[str, ...],
    restorer: tuple[str, ...],
    *,
    keeps_its_file: bool,
) -> None:
    cluster = make_cluster(lease_s=2)
    gpu = await cluster.gpu("IMAGE_GEN_URL_1")
    processes = await cluster.start("projector", "dispatcher-1", "api")
    tasks = await of_every_kind(cluster, gpu, soon_s=3)
    before, stood = await shown(cluster, tasks.settled), await standing(cluster, tasks)
    backup = tmp_path / "backup"

    await run(cluster, *saver, *SAVE[saver], str(backup))
    await lost(cluster, processes, keeps_its_file=keeps_its_file)
    await run(cluster, *restorer, *RESTORE[restorer], str(backup))
    projector, _ = await cluster.start("projector", "api")

    async def same() -> bool:
        return await standing(cluster, tasks) == stood

    await eventually(same, "the lists are what they were", 20)
    assert await shown(cluster, tasks.settled) == before
    assert "readmodel.rebuilt" in projector.log.read_text(), "another stream is another file"
    await goes_on(cluster, gpu, tasks)


async def lost(cluster: Cluster, processes: list[Process], *, keeps_its_file: bool) -> None:
    """Kill everything at once, and put an empty nats-server in the old one's place."""
    for process in processes:
        process.kill()
        process.log.unlink()
    cluster.nats.kill()
    shutil.rmtree(cluster.nats.folder)
    if not keeps_its_file:
        shutil.rmtree(cluster.readmodel.parent)
    cluster.nats.start()


async def goes_on(cluster: Cluster, gpu: Gpu, tasks: Tasks) -> None:
    await cluster.reached(tasks.soon, "QUEUED")
    await cluster.start("dispatcher-2")
    await cluster.told(tasks.running, "attached", 2)
    await gpu.clear()
    assert (await cluster.finished(tasks.running))["status"] == "DONE"
    assert [(await cluster.document(task_id))["status"] for task_id in tasks.queued] == ["QUEUED"] * BATCH
    status, _ = await cluster.ask("POST", "/api/v1/queues/image/resume")
    assert status == 200
    for task_id in (*tasks.queued, tasks.soon):
        document = await cluster.finished(task_id)
        assert document["status"] == "DONE"
        assert [await digest(cluster, artifact) for artifact in document["artifacts"]]
        assert finals(await cluster.history(task_id)) == ["task.done"]
    assert types(await cluster.history(tasks.later)) == ["scheduled"]
