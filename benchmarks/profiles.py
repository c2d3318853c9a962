"""Where the processor time of a task goes, in each process that it passes.

The one rule: what a task costs is measured while nobody looks; how that is made up, by looking into one
process at a time, so seldom that the others hardly notice.
"""

import asyncio
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from benchmarks import stacks
from benchmarks.measure import Figure, Samples, spread
from benchmarks.rig import Bench, Rig
from benchmarks.throughput import GPUS, SYNCS, WARM_UP, through_taskfold

PROCESSES: Final = ("api", "dispatcher", "projector")
SYNC: Final = "default"
TASKS: Final = 1000
BATCH: Final = 200
RATE: Final = 50
SECONDS: Final = 10
LEAST_SHARE: Final = 0.015
"""Parts that are smaller are told together."""


class Seen(Struct, frozen=True):
    """The samples of each part of a process; ``trouble`` says why there are none."""

    parts: Counter[str]
    trouble: str = ""


async def measure(bench: Bench) -> list[Figure]:
    cost: dict[str, list[Samples]] = {name: [] for name in PROCESSES}
    seen: dict[str, list[Seen]] = {name: [] for name in PROCESSES}
    async with bench.rig(nats_sync=SYNC, queue_limit=1_000_000) as rig:
        await rig.instant_gpus(GPUS)
        await rig.start("projector", "dispatcher", "api")
        await through_taskfold(rig, WARM_UP)
        for _ in range(bench.runs):
            before = rig.cpu_s()
            await through_taskfold(rig, TASKS)
            after = rig.cpu_s()
            for name in PROCESSES:
                cost[name].append([(after[name] - before[name]) / TASKS * 1000])
                seen[name].append(await _look(rig, name))
    return [figure(name, cost[name], seen[name]) for name in PROCESSES]


def figure(name: str, cost: list[Samples], seen: list[Seen]) -> Figure:
    """Say what a process costs a task in each run, and how that is made up by what was seen in all."""
    ours = spread(cost)
    samples = sum((each.parts for each in seen), Counter[str]())
    troubles = sorted({each.trouble for each in seen if each.trouble})
    return Figure(
        name=f"profile, {name}",
        what=f"tasks as in throughput, {SYNCS[SYNC]}, {GPUS} instant GPUs",
        floor_what="",
        unit="ms of a processor a task",
        ours=ours,
        notes=(
            f"{samples.total()} samples by py-spy, {RATE} a second; threads that wait are left out",
            *(f"py-spy could not look into it: {trouble}" for trouble in troubles),
        ),
        series="where processor time goes",
        parts={part: share * ours.p50 for part, share in shares(samples).items()},
    )


def shares(samples: Mapping[str, int]) -> dict[str, float]:
    """Give the share of each part, the largest first and what is small together at the end."""
    whole = sum(samples.values())
    large = {
        part: count / whole
        for part, count in sorted(samples.items(), key=lambda item: (-item[1], item[0]))
        if count >= LEAST_SHARE * whole and part != stacks.OTHER
    }
    rest = 1 - sum(large.values()) if whole else 0
    return {**large, stacks.OTHER: rest} if rest > 0 else large


async def _look(rig: Rig, name: str) -> Seen:
    """Look into a process for a while, in which tasks go through."""
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(_recorded(rig.pid(name), rig.settings.data_path / f"{name}.stacks"))
        while not looking.done():
            await through_taskfold(rig, BATCH)
    return looking.result()


async def _recorded(pid: int, file: Path) -> Seen:
    """Have py-spy record a process, libraries in C too."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        return Seen(Counter(), "it is not installed")
    how = ("--native", "--nolineno", "--rate", str(RATE), "--duration", str(SECONDS))
    where = ("--format", "raw", "--output", str(file))
    process = await asyncio.create_subprocess_exec(
        program, "record", "--pid", str(pid), *how, *where, stdout=DEVNULL, stderr=PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        first, *_ = said.decode().splitlines() or [f"it ended with {process.returncode}"]
        return Seen(Counter(), first)
    return await asyncio.to_thread(_read, file)


def _read(file: Path) -> Seen:
    return Seen(stacks.parts(file.read_text().splitlines()))
