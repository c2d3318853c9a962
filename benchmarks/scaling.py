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
from benchmarks.measure import Figure, percentile, spread
from benchmarks.playing import SIDE, STEPS, step_ms
from benchmarks.rig import Bench, Rig, spent_s, until
from benchmarks.throughput import CLIENTS, WHAT_THEY_ARE, through_taskfold
from services.gpusim.model import Options, ProfileName

GPUS: Final = (1, 2, 4, 16, 64)
TASK_S: Final = 2.0
"""So that the most GPUs ask for a few dozen tasks a second, which is far from what the machine carries."""
SIGMA: Final = 1.0
"""Tasks differ by about a third; all GPUs that have begun together would else end together, each time."""
EACH: Final = 8
LEAST_EACH: Final = 4
DIRECTLY: Final = 3
LEAST_SHARE: Final = 99.0
PATIENCE_S: Final = 300.0

DISPATCHERS: Final = (1, 2, 4)
INSTANT: Final = 8
TASKS: Final = 400
LEAST_TASKS: Final = 100
WARM_UP: Final = 100
QUIET_S: Final = 1.0
REST: Final = ("api", "projector", "nats-server")

Run = tuple[float, float]
"""When a task began and ended on its GPU, in seconds."""


class Load(Struct, frozen=True):
    """How the GPUs were used while there was work for all: ``share`` of their time, in percent."""

    share: float
    tasks_a_second: float
    gaps_ms: list[float]


class Cost(Struct, frozen=True):
    """What dispatchers bring, and the processor time that a task takes, of them and of all of Taskfold."""

    tasks_a_second: float
    dispatchers_ms: float
    all_ms: float


async def measure(bench: Bench) -> list[Figure]:
    most = bench.sized(GPUS[-1])
    gpus = [await _gpus(bench, count) for count in GPUS if count <= max(2, most)]
    return gpus + await _dispatchers(bench)


async def _gpus(bench: Bench, count: int) -> Figure:
    each = max(LEAST_EACH, bench.sized(EACH))
    options = Options(profile=ProfileName.OPENAI, step_ms=step_ms(TASK_S), sigma=SIGMA)
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
        what=f"{each} tasks of about {TASK_S:g} s for each, {rate:.1f} tasks/s",
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
    figures: list[Figure] = []
    async with bench.rig() as rig:
        await rig.instant_gpus(INSTANT)
        await rig.start("projector", "dispatcher", "api")
        others: list[Process] = []
        for count in DISPATCHERS:
            others += [await rig.another("dispatcher") for _ in range(count - 1 - len(others))]
            await _settled(others)
            await through_taskfold(rig, WARM_UP)
            figures += _pair(count, [await _costed(rig, others, tasks) for _ in range(bench.runs)])
    return figures


async def _settled(dispatchers: Sequence[Process]) -> None:
    """Wait until those that were just started have nothing more to do."""

    async def quiet() -> bool:
        before = sum(map(spent_s, dispatchers))
        await asyncio.sleep(QUIET_S)
        return sum(map(spent_s, dispatchers)) - before < QUIET_S / 10

    async with asyncio.timeout(PATIENCE_S):
        await until(quiet)


async def _costed(rig: Rig, others: Sequence[Process], tasks: int) -> Cost:
    def spent() -> tuple[float, float]:
        times = rig.cpu_s()
        dispatchers = times["dispatcher"] + sum(map(spent_s, others))
        return dispatchers, dispatchers + sum(times[name] for name in REST)

    before = spent()
    (rate,) = await through_taskfold(rig, tasks)
    each_ms = [1000 * (later - earlier) / tasks for earlier, later in zip(before, spent(), strict=True)]
    return Cost(rate, *each_ms)


def _pair(count: int, costs: Sequence[Cost]) -> list[Figure]:
    name = f"{count} dispatcher{'s' * (count > 1)}"
    dispatchers_ms = spread([[cost.dispatchers_ms] for cost in costs])
    what = f"{INSTANT} instant GPUs, submissions by {CLIENTS} clients"
    rate = Figure(
        name=name,
        what=what,
        floor_what="",
        unit="tasks/s",
        ours=spread([[cost.tasks_a_second] for cost in costs]),
        notes=("one sample a run; all share the processors with the GPUs and the client", WHAT_THEY_ARE),
        more_is_better=True,
        series="dispatchers",
        along="dispatchers",
        at=float(count),
    )
    spent = msgspec.structs.replace(
        rate,
        name=f"{name}, processor time",
        unit="ms a task",
        ours=spread([[cost.all_ms] for cost in costs]),
        notes=(f"of which the dispatchers p50 {dispatchers_ms.p50:.2f} ms, the rest {', '.join(REST)}",),
        more_is_better=False,
        series="processor time by dispatchers",
    )
    return [rate, spent]
