"""How many tasks a second go through everything when the GPUs take no time."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Final

from benchmarks.gaps import openai, submitted
from benchmarks.measure import Figure, Samples, spread
from benchmarks.rig import Bench, Rig
from services.gpusim.model import Options, ProfileName

TASKS: Final = 400
WARM_UP: Final = 40
PROCESSES: Final = 2
EACH: Final = 4
SIDE: Final = 64


async def measure(bench: Bench) -> list[Figure]:
    options = Options(profile=ProfileName.OPENAI, step_ms=0)
    async with bench.rig() as rig:
        started = [await rig.gpus(EACH, options, "openai_images") for _ in range(PROCESSES)]
        urls = list(itertools.chain.from_iterable(started))
        await rig.start("projector", "dispatcher", "api")
        await _through_taskfold(rig, WARM_UP)
        floor_runs, our_runs = await bench.in_turns(
            lambda: _directly(rig, urls, TASKS), lambda: _through_taskfold(rig, TASKS)
        )
    figure = Figure(
        name="throughput",
        what=f"from the first submission to the last result, {len(urls)} instant GPUs",
        floor_what="loops that ask the same GPUs without any queue",
        unit="tasks/s",
        ours=spread(our_runs),
        floor=spread(floor_runs),
        notes=("one sample a run; the simulators and the client share the processors with the rest",),
    )
    return [figure]


async def _through_taskfold(rig: Rig, count: int) -> Samples:
    began = time.perf_counter()
    async with rig.connection() as connection:
        task_ids = [await submitted(connection, "a red fox", SIDE) for _ in range(count)]
    await rig.finish(task_ids)
    return [count / (time.perf_counter() - began)]


async def _directly(rig: Rig, urls: list[str], count: int) -> Samples:
    began = time.perf_counter()
    turns = iter(range(count))

    async def loop(url: str, turns: Iterator[int]) -> None:
        for _ in turns:
            await openai(rig, url, "a red fox", SIDE)

    async with asyncio.TaskGroup() as group:
        for url in urls:
            group.create_task(loop(url, turns))
    return [count / (time.perf_counter() - began)]
