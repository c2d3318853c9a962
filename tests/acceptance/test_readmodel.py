"""The read model lost or spoilt, while everything runs or nothing does: it is rebuilt from the log."""

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.ids import TaskId
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, Json, eventually


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def overwritten(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(os.urandom(file.stat().st_size))


def overwritten_behind_the_head(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(os.urandom(file.stat().st_size - 4096))


def deleted(file: Path) -> None:
    file.unlink()


def deleted_with_its_log(file: Path) -> None:
    for name in file.parent.glob("readmodel.db*"):
        name.unlink()


def of_an_older_version(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE checkpoint SET schema = schema - 1")
        database.commit()


SPOILT = [truncated, emptied, overwritten, overwritten_behind_the_head, deleted, deleted_with_its_log]


async def listed(cluster: Cluster) -> list[Json]:
    status, answer = await cluster.ask("GET", "/api/v1/tasks", params={"limit": "200"})
    return answer["tasks"] if status == 200 else []


async def filled(cluster: Cluster) -> tuple[list[TaskId], list[Json]]:
    """Run enough tasks that the file has pages beside its head."""
    ids = [await cluster.submit(f"fox {n}", width=64, height=64, steps=1) for n in range(40)]
    for task_id in ids:
        await cluster.finished(task_id)
    return ids, await listed(cluster)


@pytest.mark.parametrize("spoil", SPOILT)
async def test_a_read_model_spoilt_while_it_is_in_use_is_rebuilt(
    make_cluster: MakeCluster, spoil: Callable[[Path], None]
) -> None:
    cluster = make_cluster()
    await cluster.gpu("IMAGE_GEN_URL_1")
    [projector, *_] = await cluster.start("projector", "api", "dispatcher-1")
    ids, before = await filled(cluster)
    inode = cluster.readmodel.stat().st_ino

    spoil(cluster.readmodel)
    # By id everything can be read all the time, from the log if need be.
    assert (await cluster.document(ids[0]))["status"] == "DONE"
    newer = await cluster.submit("after it")
    assert (await cluster.finished(newer))["status"] == "DONE"

    async def rebuilt() -> bool:
        try:
            changed = cluster.readmodel.stat().st_ino != inode
        except FileNotFoundError:
            return False
        after = await listed(cluster)
        return changed and after[1:] == before

    await eventually(rebuilt, "the list is what it was")
    assert "readmodel.rebuilt" in projector.log.read_text()


@pytest.mark.parametrize("spoil", [*SPOILT, of_an_older_version])
async def test_a_read_model_spoilt_while_nothing_runs_is_rebuilt(
    make_cluster: MakeCluster, spoil: Callable[[Path], None]
) -> None:
    cluster = make_cluster()
    await cluster.gpu("IMAGE_GEN_URL_1")
    processes = await cluster.start("projector", "api", "dispatcher-1")
    _, before = await filled(cluster)
    for process in processes:
        process.end()
    spoil(cluster.readmodel)
    await cluster.start("projector", "api")

    async def same() -> bool:
        return await listed(cluster) == before

    await eventually(same, "the list is what it was")
