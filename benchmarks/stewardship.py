"""How well tasks are placed: eight unequal GPUs, six models that take long to load, several policies.

The one rule: every policy is given the same tasks at the same times, and the simulation of them as well.
Work, loads and arrivals go ``FASTER`` times as fast as they are said to; Taskfold's own times do not.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from benchmarks import tenants
from benchmarks.measure import Figure, Spread, spread
from benchmarks.playing import STEPS, Coming, Seen, play, step_ms, steps
from benchmarks.rig import Bench, Rig
from services.gpusim.control import Control
from services.gpusim.model import Options, ProfileName, Stats
from services.scheduling.fairness import Turns
from services.scheduling.outcome import Outcome
from services.scheduling.scenarios import unequal_arrivals, unequal_machines
from services.scheduling.simulation import Machine, simulate

FASTER: Final = 20
LOADS: Final = (0.5, 0.7)
DEFAULT: Final = "least_expected_completion"
BESIDE: Final = "round_robin"
TIMES_BETTER: Final = 2.0
MODEL_LOAD_S: Final = 15.0
"""What Taskfold takes for a load until it has seen one, before it is sped up."""
WARM_UP: Final = 80
WARM_UP_SEED: Final = 100
SHORT_TASKS: Final = 100
LONG_TASKS: Final = 200


class Day(Struct, frozen=True, kw_only=True):
    """One policy at one load; times in seconds as they are said to be."""

    policy: str
    load: float
    totals_s: list[list[float]]
    busy: tuple[float, ...]
    loads: int
    simulated: list[Outcome]


async def measure(bench: Bench) -> list[Figure]:
    """Take the short form: one day of the default policy and of the one beside it, then tenants."""
    figures = await _policies(bench, (BESIDE, DEFAULT), (1,), SHORT_TASKS)
    return figures + await tenants.measure(bench)


async def measure_long(bench: Bench) -> list[Figure]:
    """Take the long form: a day for each run, and another policy."""
    seeds = tuple(range(1, bench.runs + 1))
    figures = await _policies(bench, (BESIDE, "random", DEFAULT), seeds, LONG_TASKS)
    return figures + await tenants.measure(bench)


async def _policies(
    bench: Bench, policies: Sequence[str], seeds: Sequence[int], tasks: int
) -> list[Figure]:
    days = [day for policy in policies for day in await _days(bench, policy, seeds, tasks)]
    beside = {day.load: spread(day.totals_s) for day in days if day.policy == BESIDE}
    return [_figure(day, beside[day.load]) for day in days]


async def _days(bench: Bench, policy: str, seeds: Sequence[int], tasks: int) -> list[Day]:
    async with bench.rig(
        balancing=policy, trust_tenant_header=True, model_load_s=MODEL_LOAD_S / FASTER
    ) as rig:
        controls = await unequal_gpus(rig, FASTER)
        await rig.start("projector", "dispatcher", "api")
        if policy == DEFAULT:  # the others do not look at what has been learned
            await play(rig, unequal(LOADS[0], WARM_UP, WARM_UP_SEED, FASTER))
        return [await _day(rig, controls, policy, load, seeds, tasks) for load in LOADS]


async def _day(
    rig: Rig, controls: Sequence[Control], policy: str, load: float, seeds: Sequence[int], tasks: int
) -> Day:
    first = before = await _stats(controls)
    runs: list[list[Seen]] = []
    simulated = []
    for seed in seeds:
        runs.append(await play(rig, unequal(load, tasks, seed, FASTER)))
        simulated.append(_simulated(policy, load, tasks, seed, before))
        before = await _stats(controls)
    return Day(
        policy=policy,
        load=load,
        totals_s=[[task.total_s * FASTER for task in run] for run in runs],
        busy=tuple(
            (b.busy_s - a.busy_s) / (b.since_s - a.since_s) for a, b in zip(first, before, strict=True)
        ),
        loads=sum(b.loads - a.loads for a, b in zip(first, before, strict=True)),
        simulated=simulated,
    )


async def unequal_gpus(rig: Rig, faster: float) -> list[Control]:
    """Start the scenario's GPUs, so many times as fast."""
    machines = unequal_machines()
    each = [_options(machine, faster, number) for number, machine in enumerate(machines)]
    query = f"?keeps={machines[0].keeps}&models={','.join(machines[0].models)}"
    urls = await rig.unequal_gpus(each, "openai_images", query)
    return [Control(rig.http, url) for url in urls]


def _options(machine: Machine, faster: float, number: int) -> Options:
    cold = [model for model in machine.models if model not in machine.warm]
    return Options(
        profile=ProfileName.OPENAI,
        models=(*machine.warm, *cold),
        step_ms=step_ms(machine.seconds[machine.warm[0]] / faster),
        load_s=machine.load_s / faster,
        keeps=machine.keeps,
        seed=number,
    )


def unequal(load: float, tasks: int, seed: int, faster: float) -> list[Coming]:
    """Give the scenario's tasks, so many times as fast."""
    return [
        Coming(
            at_s=arrival.at_s / faster,
            tenant=arrival.tenant,
            steps=steps(arrival.factor),
            model=arrival.lane.model,
        )
        for arrival in unequal_arrivals(load, tasks, seed)
    ]


def _simulated(policy: str, load: float, tasks: int, seed: int, before: Sequence[Stats]) -> Outcome:
    """Replay the same tasks, not sped up, where Taskfold takes no time; the same models are loaded.

    The speeds of the GPUs have to be learned.
    """
    machines = [
        replace(machine, warm=stats.loaded)
        for machine, stats in zip(unequal_machines(), before, strict=True)
    ]
    arrivals = (
        replace(arrival, units=steps(arrival.factor) / STEPS, factor=1.0)
        for arrival in unequal_arrivals(load, tasks, seed)
    )
    return simulate(arrivals, machines, policy, Turns(), model_load_s=MODEL_LOAD_S)


async def _stats(controls: Sequence[Control]) -> list[Stats]:
    return list(await asyncio.gather(*(control.stats() for control in controls)))


def _figure(day: Day, beside: Spread) -> Figure:
    ours = spread(day.totals_s)
    better = beside.p95 / ours.p95
    judged = day.policy == DEFAULT
    return Figure(
        name=f"{day.policy}, {day.load:.0%} load",
        what="submitted to done, eight unequal GPUs, six models",
        floor_what="",
        unit="s",
        ours=ours,
        target=f"p95 at least {TIMES_BETTER:g} times better than {BESIDE}" if judged else None,
        met=better >= TIMES_BETTER if judged else None,
        notes=tuple(_notes(day, better)),
        series="placing",
        along="load, in parts of what the GPUs can do",
        at=day.load,
    )


def _notes(day: Day, better: float) -> list[str]:
    spent = f"busy {sum(day.busy) / len(day.busy):.0%}, each {min(day.busy):.0%} to {max(day.busy):.0%}"
    runs = "; ".join(
        f"p50 {each.total.p50:.1f}, p95 {each.total.p95:.1f} s, {each.loads} loads"
        for each in day.simulated
    )
    notes = [f"{spent}; {day.loads} loads of models", f"simulated, speeds not known before: {runs}"]
    if day.policy == DEFAULT:
        notes += [
            f"p95 {better:.1f} times better than {BESIDE}",
            f"work, loads and arrivals go {FASTER} times as fast as said, Taskfold's own times do not",
            f"{WARM_UP} tasks that came before, at {LOADS[0]:.0%} load, are not counted",
        ]
    else:
        notes.append("unstable at this load: the queue grows with the number of tasks, which is bounded")
    return notes
