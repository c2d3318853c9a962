"""How many tasks a second go through everything when the GPUs take no time.

The one rule: a task counts once the read model has its end. The floor is what the log alone could take: the
writes of as many tasks, guards and all, and nothing else.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from benchmarks import backlog, floors, guarded
from benchmarks.gaps import openai, submitted
from benchmarks.measure import Figure, Samples, spread
from benchmarks.rig import Bench, Rig, until
from schemas.ids import TaskId

TASKS: Final = 2000
WARM_UP: Final = 200
CLIENTS: Final = 8
GPUS: Final = 8
WHAT_THEY_ARE: Final = "a GPU here is a server that answers at once, the same picture each time"
SIDE: Final = 64
PATIENCE_S: Final = 300.0
SYNCS: Final = {"always": "every write synced", "default": "synced now and then"}
LEAST: Final = 0.6


class Taken(Struct, frozen=True):
    """Tasks a second of every run: straight to the GPUs, of the writes alone, and through Taskfold.

    ``notes`` tell what the last of them cost.
    """

    directly: list[Samples]
    writes: list[Samples]
    ours: list[Samples]
    notes: tuple[str, ...]


async def measure(bench: Bench) -> list[Figure]:
    taken = {sync: await _take(bench, sync) for sync in SYNCS}
    return [_beside_gpus(taken["always"]), *(_beside_writes(sync, taken[sync]) for sync in SYNCS)]


async def _take(bench: Bench, sync: str) -> Taken:
    runs: list[Samples] = []
    tasks = bench.sized(TASKS)
    async with bench.rig(nats_sync=sync, queue_limit=1_000_000) as rig:
        urls = await rig.instant_gpus(GPUS)
        await rig.start("projector", "dispatcher", "api")
        await floors.prepare(rig.bus)
        await through_taskfold(rig, WARM_UP)
        await _keep_writes(rig)
        ours = _Ours(rig)

        async def floor() -> Samples:
            runs.append(await directly(rig, urls, tasks))
            return await _writes(rig, tasks, CLIENTS + len(urls))

        writes, through = await bench.in_turns(floor, lambda: ours.take(tasks))
        return Taken(runs, writes, through, ours.notes())


class _Ours:
    """Sends tasks through Taskfold, and adds up what every process spends on them."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._spent_s = defaultdict[str, float](float)
        self._wall_s = 0.0
        self._tasks = 0

    async def take(self, tasks: int) -> Samples:
        before, began = self._rig.cpu_s(), time.perf_counter()
        rates = await through_taskfold(self._rig, tasks)
        self._wall_s += time.perf_counter() - began
        self._tasks += tasks
        for name, spent_s in self._rig.cpu_s().items():
            self._spent_s[name] += spent_s - before[name]
        return rates

    def notes(self) -> tuple[str, ...]:
        each = ", ".join(f"{name} {1000 * s / self._tasks:.2f}" for name, s in self._spent_s.items())
        weights = ", ".join(f"{seen.process} {seen.now:.0f}" for seen in self._rig.memory())
        busy = sum(self._spent_s.values()) / self._wall_s
        return (
            f"ms of a processor a task: {each}; {busy:.2f} processors were busy with it",
            f"MB resident in the end: {weights}",
        )


async def through_taskfold(rig: Rig, count: int) -> Samples:
    """Submit so many by some clients, and wait until the read model has the end of all; tasks a second."""
    expected = await _done(rig) + count
    turns = iter(range(count))

    async def client() -> None:
        async with rig.connection() as connection:
            for _ in turns:
                await submitted(connection, "a red fox", SIDE)

    async def ended() -> bool:
        return await _done(rig) >= expected

    began = time.perf_counter()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
        await until(ended)
    return [count / (time.perf_counter() - began)]


async def _done(rig: Rig) -> int:
    counts = await backlog.counts(rig)
    assert not counts.get("failed"), "tasks have failed"
    return counts.get("done", 0)


async def directly(rig: Rig, urls: list[str], count: int) -> Samples:
    """Have so many drawn by loops that ask a GPU each; tasks a second."""
    began = time.perf_counter()
    turns = iter(range(count))

    async def loop(url: str, turns: Iterator[int]) -> None:
        for _ in turns:
            await openai(rig, url, "a red fox", SIDE)

    async with asyncio.TaskGroup() as group:
        for url in urls:
            group.create_task(loop(url, turns))
    return [count / (time.perf_counter() - began)]


async def _keep_writes(rig: Rig) -> None:
    """Have one more task go through, and keep what it wrote for the floor."""
    async with rig.connection() as connection:
        task_id: TaskId = await submitted(connection, "a red fox", SIDE)
    await rig.finish([task_id])
    (rig.settings.data_path / "writes").write_bytes(
        msgspec.json.encode(await guarded.of_task(rig.bus, task_id))
    )


async def _writes(rig: Rig, tasks: int, at_once: int) -> Samples:
    file = rig.settings.data_path / "writes"
    words = (rig.settings.bus_url, str(file), str(tasks), str(at_once))
    return [float(await rig.beside("benchmarks.guarded", *words, patience_s=PATIENCE_S))]


def _beside_writes(sync: str, taken: Taken) -> Figure:
    figure = Figure(
        name=f"throughput, {SYNCS[sync]}",
        what=f"from the first submission to the last end, {GPUS} instant GPUs",
        floor_what="the guarded writes of as many tasks, nothing else",
        unit="tasks/s",
        ours=spread(taken.ours),
        floor=spread(taken.writes),
        target=f"at least {LEAST:.0%} of its floor",
        notes=taken.notes,
        more_is_better=True,
        ratio_target=LEAST,
        series="throughput",
    )
    return figure.judged()


def _beside_gpus(taken: Taken) -> Figure:
    return Figure(
        name="throughput",
        what=f"from the first submission to the last end, {GPUS} instant GPUs",
        floor_what="loops that ask the same GPUs without any queue",
        unit="tasks/s",
        ours=spread(taken.ours),
        floor=spread(taken.directly),
        notes=(
            WHAT_THEY_ARE,
            "one sample a run; these servers and the client share the processors with the rest",
        ),
        more_is_better=True,
    )
