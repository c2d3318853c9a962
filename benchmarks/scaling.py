"""What more GPUs bring, and more dispatchers: one to sixty-four simulated GPUs, one to four dispatchers.

The one rule: the share of linear is told by the GPUs' own books, while tasks wait for all of them: from
when each has begun one until the last of the waiting tasks begins. Linear is as many tasks a second as
there are GPUs, over the seconds that they take for a task themselves; so the share is how much of that time
they are at work.
"""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec
from msgspec import Struct
from psutil import Process  # type: ignore[import-untyped]  # it has no types

from benchmarks import backlog
from benchmarks.gaps import openai, run_times
from benchmarks.measure import Figure, Samples, percentile, spread
from benchmarks.playing import SIDE, STEPS, step_ms
from benchmarks.rig import Bench, Rig
from benchmarks.throughput import CLIENTS, through_taskfold
from services.gpusim.model import Options, ProfileName

GPUS: Final = (1, 2, 4, 16, 64)
TASK_S: Final = 2.0
"""So that the most GPUs ask for a few dozen tasks a second, which is far from what the machine carries."""
EACH: Final = 8
LEAST_EACH: Final = 4
DIRECTLY: Final = 3
LEAST_SHARE: Final = 99.0
PATIENCE_S: Final = 300.0

DISPATCHERS: Final = (1, 2, 4)
INSTANT: Final = 8
TASKS: Final = 400
LEAST_TASKS: Final = 100
WARM_UP: Final = 40

Run = tuple[float, float]
"""When a task began and ended on its GPU, in seconds."""


class Load(Struct, frozen=True):
    """How the GPUs were used while there was work for all: ``share`` of their time, in percent."""

    share: float
    tasks_a_second: float
    gaps_ms: list[float]


async def measure(bench: Bench) -> list[Figure]:
    most = bench.sized(GPUS[-1])
    gpus = [await _gpus(bench, count) for count in GPUS if count <= max(2, most)]
    return gpus + await _dispatchers(bench)


async def _gpus(bench: Bench, count: int) -> Figure:
    each = max(LEAST_EACH, bench.sized(EACH))
    options = Options(profile=ProfileName.OPENAI, step_ms=step_ms(TASK_S))
    directly: list[Load] = []
    queued: list[Load] = []
    async with bench.rig() as rig:
        urls = await rig.gpus(count, options, "openai_images")
        await rig.start("projector", "dispatcher", "api")
        await _queued(rig, count, "warm up")
        for number in range(bench.runs):
            await _directly(rig, urls, DIRECTLY * count, f"directly {number}")
            await _queued(rig, each * count, f"queued {number}")
            directly.append(load(await _books(rig, urls, f"directly {number}")))
            queued.append(load(await _books(rig, urls, f"queued {number}")))
    ours = spread([[load.share] for load in queued])
    gaps = spread([load.gaps_ms for load in queued])
    rate = percentile(sorted(load.tasks_a_second for load in queued), 0.5)
    last = count == GPUS[-1]
    return Figure(
        name=f"{count} GPU{'s' * (count > 1)}",
        what=f"{each} tasks of {TASK_S:g} s for each, {rate:.1f} tasks/s",
        floor_what="loops that ask the same GPUs without any queue",
        unit="% of linear",
        ours=ours,
        floor=spread([[load.share] for load in directly]),
        target=f"at least {LEAST_SHARE:g} %" if last else None,
        met=ours.p50 >= LEAST_SHARE if last else None,
        notes=(f"between two tasks a GPU is idle for p50 {gaps.p50:.1f}, p99 {gaps.p99:.1f} ms",),
        more_is_better=True,
        series="gpus",
        along="GPUs",
        at=float(count),
    )


async def _queued(rig: Rig, count: int, prompt: str) -> None:
    """Let so many tasks wait, then run them all."""
    await backlog.pause(rig)
    task_ids = await backlog.submit(rig, count, prompt, side=SIDE, steps=STEPS)
    await backlog.queued(rig, len(task_ids))
    await backlog.resume(rig)
    await rig.finish(task_ids, PATIENCE_S)


async def _directly(rig: Rig, urls: Sequence[str], count: int, prompt: str) -> None:
    """Run as many in loops, which share the work as the GPUs of a queue do."""
    turns = iter(range(count))

    async def loop(url: str) -> None:
        for _ in turns:
            await openai(rig, url, prompt, SIDE, STEPS)

    async with asyncio.TaskGroup() as group:
        for url in urls:
            group.create_task(loop(url))


async def _books(rig: Rig, urls: Sequence[str], prompt: str) -> list[list[Run]]:
    return [await run_times(rig, url, prompt) for url in urls]


def load(books: Sequence[Sequence[Run]]) -> Load:
    """Sum up the runs of each GPU, in their order, of which each has had two at the least."""
    begin = max(runs[0][0] for runs in books)
    end = max(runs[-1][0] for runs in books)
    every = [run for runs in books for run in runs]
    busy_s = sum(max(0.0, min(ended, end) - max(began, begin)) for began, ended in every)
    task_s = sum(ended - began for began, ended in every) / len(every)
    gaps = [(later[0] - earlier[1]) * 1000 for runs in books for earlier, later in pairwise(runs)]
    share = busy_s / (end - begin) / len(books)
    return Load(share * 100, share * len(books) / task_s, gaps)


async def _dispatchers(bench: Bench) -> list[Figure]:
    """Measure one dispatcher, then as many more beside it."""
    tasks = max(LEAST_TASKS, bench.sized(TASKS))
    options = Options(profile=ProfileName.OPENAI, step_ms=0)
    figures: list[Figure] = []
    async with bench.rig() as rig:
        await rig.gpus(INSTANT, options, "openai_images")
        await rig.start("projector", "dispatcher", "api")
        others: list[Process] = []
        for count in DISPATCHERS:
            others += [await rig.another("dispatcher") for _ in range(count - 1 - len(others))]
            await through_taskfold(rig, WARM_UP)
            before = _cpu_s(rig, others)
            rates = [await through_taskfold(rig, tasks) for _ in range(bench.runs)]
            spent = [
                1000 * (after - since) / tasks / bench.runs
                for after, since in zip(_cpu_s(rig, others), before, strict=True)
            ]
            figures += _pair(count, rates, *spent)
    return figures


def _cpu_s(rig: Rig, others: Sequence[Process]) -> tuple[float, float]:
    """Give the processor time of all dispatchers, and of them with api, projector and server."""
    times = rig.cpu_s()
    more = sum(spent.user + spent.system for spent in (each.cpu_times() for each in others))
    dispatchers = times["dispatcher"] + more
    return dispatchers, dispatchers + times["api"] + times["projector"] + times["nats-server"]


def _pair(count: int, rates: list[Samples], dispatchers_ms: float, all_ms: float) -> list[Figure]:
    name = f"{count} dispatcher{'s' * (count > 1)}"
    what = f"{INSTANT} instant GPUs, submissions by {CLIENTS} clients"
    rate = Figure(
        name=name,
        what=what,
        floor_what="",
        unit="tasks/s",
        ours=spread(rates),
        notes=("one sample a run; all share the processors with the simulators and the client",),
        more_is_better=True,
        series="dispatchers",
        along="dispatchers",
        at=float(count),
    )
    spent = msgspec.structs.replace(
        rate,
        name=f"{name}, processor time",
        unit="ms a task",
        ours=spread([[all_ms]]),
        notes=(
            f"of which the dispatchers {dispatchers_ms:.2f} ms, the rest api, projector and nats-server",
        ),
        more_is_better=False,
        series="processor time by dispatchers",
    )
    return [rate, spent]
