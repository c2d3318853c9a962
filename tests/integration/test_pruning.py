"""Finished tasks that leave the read model: what goes with them, and what stays true."""

import asyncio
import contextlib
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

from schemas import readmodel, upkeep
from schemas.erasure import erased
from schemas.task import fold
from services import clock
from services.api.past import Moment, Past
from services.api.queries import ReadModel
from services.process import background
from services.projector.checksum import checksum
from services.projector.pruning import AT_ONCE, drop_finished, keep_pruned
from services.projector.store import opened
from tests.api import Rig, running, settings_for
from tests.builders import TASK, at, done, history, record, started, submitted
from tests.integration.test_api_sse import listening
from tests.nats import NatsServer
from tests.readmodels import folded, lived, made

TASKS = "/api/v1/tasks"
TALLIED = """
SELECT kind, tenant, status, count(*) FROM tasks GROUP BY 1, 2, 3
UNION ALL SELECT kind, '*', status, count(*) FROM tasks GROUP BY 1, 3 ORDER BY 1, 2, 3
"""
COUNTED = "SELECT kind, tenant, status, n FROM counts WHERE n <> 0 ORDER BY 1, 2, 3"
TAGGED = "SELECT e.value, t.number FROM tasks t, json_each(CAST(t.doc AS TEXT), '$.tags') e ORDER BY 1, 2"


def numbers(database: sqlite3.Connection, query: str, *asked: int) -> list[int]:
    return [number for (number,) in database.execute(query, asked)]


def pruned(database: sqlite3.Connection) -> int:
    [(sequence,)] = database.execute(readmodel.PRUNED).fetchall()
    return int(sequence)


def drop(database: sqlite3.Connection, before: datetime, most: int = 50) -> int:
    """Drop all there are, so many at a time."""
    gone = 0
    while some := drop_finished(database, before, most):
        gone += some
    return gone


def test_all_that_is_known_of_an_old_task_goes_and_the_rest_adds_up(tmp_path: Path) -> None:
    told = lived(900)
    with contextlib.closing(sqlite3.connect(made(tmp_path / "m", told), isolation_level=None)) as database:
        old = "SELECT number FROM tasks WHERE finished_at < '2026-11-24T09:20:00.000Z' ORDER BY number"
        going, before = numbers(database, old), numbers(database, "SELECT number FROM tasks")
        assert 0 < len(going) < len(before)
        dropped = max(numbers(database, f"SELECT max(sequence) FROM events WHERE number IN ({old})"))

        assert drop(database, at(1200)) == len(going)

        left = set(before) - set(going)
        assert set(numbers(database, "SELECT number FROM tasks")) == left
        assert set(numbers(database, "SELECT DISTINCT number FROM events")) == left
        assert numbers(database, "SELECT number FROM forgotten ORDER BY number") == going
        assert database.execute(COUNTED).fetchall() == database.execute(TALLIED).fetchall()
        assert (
            database.execute("SELECT tag, number FROM tags ORDER BY 1, 2").fetchall()
            == database.execute(TAGGED).fetchall()
        )
        assert pruned(database) == dropped
        assert numbers(database, "SELECT count(*) FROM moments WHERE sequence < ?", dropped) == [0]
        unfinished = "SELECT count(*) FROM tasks WHERE finished_at IS NULL"
        assert numbers(database, unfinished) == [300]


def test_it_is_all_the_same_how_many_go_at_once(tmp_path: Path) -> None:
    told = lived(300)
    sums = set()
    for most in (1, 7, 1000):
        file = made(tmp_path / f"{most}", told)
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
            drop(database, at(500), most)
            sums.add((pruned(database), checksum(database)))
    assert len(sums) == 1


def test_what_is_folded_after_it_is_counted_on(tmp_path: Path) -> None:
    told = lived(300)
    sums = set()
    for first in (600, len(told)):
        file = made(tmp_path / f"{first}", told[:first])
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
            drop(database, at(500))
            folded(database, told[first:])
            sums.add(checksum(database))
    assert len(sums) == 1


async def test_the_queues_of_a_later_past_are_as_they_were(tmp_path: Path) -> None:
    told = lived(1200)
    file = made(tmp_path / "m", told)
    last = told[-1].sequence
    assert last > 3000
    model = ReadModel(file, lambda: None)
    past = Past(model)
    asked = sorted({*range(1, last, 83), *range(990, 1010), *range(1700, 1720), *range(2695, 2705), last})
    before = {sequence: await past.queues(Moment(sequence, None)) for sequence in asked}
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        for cutoff in (500, 1300, 1310, 1700, 2700):
            assert drop(database, at(cutoff), 200)
            oldest = pruned(database)
            assert cutoff - 20 < oldest < cutoff
            for sequence in asked:
                if sequence > oldest:
                    assert await past.queues(Moment(sequence, None)) == before[sequence]
    await model.close()


def test_a_batch_goes_with_the_last_of_its_tasks(tmp_path: Path) -> None:
    # Of twelve that follow each other, four do not end; so batches of one task end, or do not.
    told = lived(60, batch=1)
    with contextlib.closing(sqlite3.connect(made(tmp_path / "m", told), isolation_level=None)) as database:
        assert numbers(database, "SELECT count(*) FROM batches") == [60]
        drop(database, at(60))
        left = "SELECT count(*) FROM batches WHERE batch_id NOT IN (SELECT batch FROM tasks)"
        assert numbers(database, left) == [0]
        assert 20 < numbers(database, "SELECT count(*) FROM batches")[0] < 60

    told = lived(60, batch=2)
    with contextlib.closing(sqlite3.connect(made(tmp_path / "2", told), isolation_level=None)) as database:
        halves = (
            "SELECT count(*) FROM batches b WHERE 1 = (SELECT count(*) FROM tasks WHERE batch = batch_id)"
        )
        drop(database, at(10_000))
        assert numbers(database, halves) == [0]
        # DONE and CANCELLED, FAILED and DONE, and two that go on.
        assert numbers(database, "SELECT count(*) FROM batches") == [10]


def test_a_task_is_as_old_as_its_erasure(tmp_path: Path) -> None:
    life = history(submitted(), started(), done())
    erasure = record(erased(fold(TASK, life), 1, "default"), 4, after=5000)
    file = made(tmp_path / "m", [*life, erasure])
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        assert drop(database, at(5000)) == 0
        assert drop(database, at(5001)) == 1
        assert numbers(database, "SELECT count(*) FROM events") == [0]


def test_old_tasks_are_found_by_an_index(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(made(tmp_path / "m"), isolation_level=None)) as database:
        plan = database.execute(f"EXPLAIN QUERY PLAN {upkeep.FINISHED_BEFORE}", ("", 1)).fetchall()
    assert [row[-1] for row in plan] == ["SEARCH tasks USING INDEX tasks_by_end (finished_at<?)"]


async def test_old_tasks_are_looked_for_at_once_and_until_there_are_no_more() -> None:
    left = [AT_ONCE, 3, 0]
    cutoffs: list[datetime] = []
    nothing = asyncio.Event()

    async def prune(before: datetime, most: int) -> int:
        assert most == AT_ONCE
        cutoffs.append(before)
        if len(left) == 1:
            nothing.set()
        return left.pop(0)

    began = clock.now()
    async with asyncio.timeout(10), background(keep_pruned(prune, timedelta(days=90))):
        await nothing.wait()
    assert left == []
    assert len(set(cutoffs)) == 1
    assert began <= cutoffs[0] + timedelta(days=90) <= clock.now()


async def ended(rig: Rig) -> int:
    """Let a task end; gives its last sequence once the read model has that."""
    task_id = await rig.submit(tags=["old"])
    await rig.start(task_id)
    sequence = await rig.fail(task_id)
    reply = await rig.ask("GET", "/api/v1/queues", headers={"Taskfold-Sequence": str(sequence)})
    assert reply.status == 200
    return sequence


async def prune_all(rig: Rig) -> int:
    async with opened(rig.settings.readmodel_path) as store:
        return await store.prune(clock.now() + timedelta(minutes=1), 100)


async def test_who_asks_for_what_is_gone_is_told(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        first = await ended(rig)
        oldest = await ended(rig)
        waiting = await rig.submit()
        assert await prune_all(rig) == 2

        listed = await rig.ask("GET", TASKS)
        assert [task["task_id"] for task in listed.json["tasks"]] == [waiting]
        assert (await rig.ask("GET", f"{TASKS}?tag=old")).json["tasks"] == []
        gone = await rig.ask("GET", f"{TASKS}/{waiting}?at_seq={oldest}")
        assert gone.refusal() == (422, "out_of_range", "at_seq")
        assert f"sequence {oldest + 1}" in gone.json["detail"]
        assert (await rig.ask("GET", f"{TASKS}/{waiting}?at_seq={oldest + 1}")).status == 200

        frames = await told(rig, first, 3)
        assert frames == ["reset retention", "task.snapshot", "snapshot"]
        assert await told(rig, oldest, 1) == ["task.submitted"]


async def told(rig: Rig, after: int, wanted: int) -> list[str]:
    """Read so many frames of all tasks' events, from there on."""
    frames: list[str] = []
    async with asyncio.timeout(15), listening(rig, "/api/v1/events", after) as listener:
        async for frame in listener.frames():
            reason = f" {frame.data['reason']}" if frame.event == "reset" else ""
            frames.append(frame.event + reason)
            if len(frames) == wanted:
                break
    return frames
