"""How long a task waits when nothing else does: the server's own times of its events."""

import asyncio
from datetime import datetime
from typing import Final

import msgspec

from benchmarks import floors
from benchmarks.client import Connection, get, post
from benchmarks.measure import MILLISECONDS, Figure, Samples, spread
from benchmarks.rig import Bench, Rig
from benchmarks.submit import PATH
from benchmarks.throughput import SYNCS
from schemas.subjects import TASKS
from services.bus.connection import Bus
from services.bus.stored import Stored, from_direct_get
from services.gpusim.model import Options, ProfileName

COUNT: Final = 40
IDLE_S: Final = 0.03
WARM_UP: Final = 10
MOST_MS: Final = 3.0
RARELY_MS: Final = 10.0
JUDGED: Final = "default"
"""How often the server syncs where the time is judged; with every write synced it is the disk's."""
BODY: Final = msgspec.json.encode({"prompt": "a red fox", "width": 64, "height": 64, "steps": 1})

Moments = dict[str, float]
"""When each event of a task was stored, in seconds, by the event's token."""


async def measure(bench: Bench) -> list[Figure]:
    return [await _taken(bench, sync) for sync in SYNCS]


async def _taken(bench: Bench, sync: str) -> Figure:
    async with bench.rig(nats_sync=sync) as rig:
        await floors.prepare(rig.bus)
        floor_url = await rig.beside("benchmarks.floors", "submit", rig.settings.bus_url)
        await rig.beside("benchmarks.floors", "work", rig.settings.bus_url)
        await rig.gpus(1, Options(profile=ProfileName.OPENAI, step_ms=0), "openai_images")
        await rig.start("projector", "dispatcher", "api")
        ends: Samples = []
        async with rig.connection(floor_url) as floor, rig.connection() as ours:

            async def take_floor(count: int = COUNT) -> Samples:
                seen = [await _floor_task(rig.bus, floor) for _ in range(count)]
                return [between(each, "started") for each in seen]

            async def take_ours(count: int = COUNT) -> Samples:
                seen = [await our_task(rig, ours) for _ in range(count)]
                ends.extend(between(each, "done") for each in seen)
                return [between(each, "started") for each in seen]

            await take_floor(WARM_UP)
            await take_ours(WARM_UP)
            ends.clear()
            floor_runs, our_runs = await bench.in_turns(take_floor, take_ours)
    done = spread([ends])
    figure = Figure(
        name=f"started, {SYNCS[sync]}",
        what="submitted to TaskStarted, both stored, nothing else runs",
        floor_what="a worker that waits in a pull, and publishes at once",
        unit=MILLISECONDS,
        ours=spread(our_runs),
        floor=spread(floor_runs),
        notes=(f"submitted to TaskDone, with an instant GPU: p50 {done.p50:.1f}, p99 {done.p99:.1f} ms",),
    )
    if sync != JUDGED:
        return figure
    met = figure.ours.p50 < MOST_MS and figure.ours.p99 < RARELY_MS
    target = f"p50 under {MOST_MS:g} ms, p99 under {RARELY_MS:g} ms"
    return msgspec.structs.replace(figure, target=target, met=met)


async def our_task(rig: Rig, connection: Connection) -> Moments:
    """Submit a task and wait for its end."""
    task_id = await _submitted(connection, PATH)
    await connection.ask(get(f"/api/v1/tasks/{task_id}?wait=20"))
    return await _moments(rig.bus, TASKS, f"task.*.*.*.*.{task_id}.*", "done")


async def _floor_task(bus: Bus, connection: Connection) -> Moments:
    task_id = await _submitted(connection, "/submit")
    return await _moments(bus, floors.STREAM, f"floor.{task_id}.*", "started")


async def _submitted(connection: Connection, path: str) -> str:
    answer = await connection.ask(post(path, BODY))
    assert answer.status == 202, answer
    task_id: str = msgspec.json.decode(answer.body)["task_id"]
    return task_id


async def _moments(bus: Bus, stream: str, subjects: str, last: str) -> Moments:
    """Read when a task's events were stored, once the last of them is there."""
    request = msgspec.json.encode({"multi_last": [subjects]})
    async with asyncio.timeout(30):
        while True:
            await asyncio.sleep(IDLE_S)
            stored = map(from_direct_get, await bus.gather(f"$JS.API.DIRECT.GET.{stream}", request))
            moments = {each.subject.rpartition(".")[2]: _exactly(each) for each in stored}
            if last in moments:
                return moments


def _exactly(stored: Stored) -> float:
    """Give the server's own time, since Taskfold cuts it to the millisecond."""
    return datetime.fromisoformat(stored.headers["Nats-Time-Stamp"]).timestamp()


def between(moments: Moments, token: str) -> float:
    return (moments[token] - moments["submitted"]) * 1000
