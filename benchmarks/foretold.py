"""How far off the time is that a task is foretold right after its submission, in the time that GPUs take.

The one rule: nothing is sped up here, since what is foretold comes in whole seconds.
"""

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.measure import Figure, spread
from benchmarks.playing import Seen, play
from benchmarks.rig import Bench, Rig
from benchmarks.stewardship import LOADS, WARM_UP_SEED, unequal, unequal_gpus

TASKS: Final = 60
WARM_UP: Final = 40
MOST: Final = 20.0


async def measure(bench: Bench) -> list[Figure]:
    """Measure on the unequal GPUs, with the default policy, at each load."""
    async with bench.rig(trust_tenant_header=True) as rig:
        await unequal_gpus(rig, 1)
        await rig.start("projector", "dispatcher", "api")
        await play(rig, unequal(LOADS[0], WARM_UP, WARM_UP_SEED, 1))
        return [
            _figure(load, await play(rig, unequal(load, TASKS, 1, 1), ask=True), await _said(rig))
            for load in LOADS
        ]


def _figure(load: float, seen: Sequence[Seen], said: str) -> Figure:
    errors = [
        100 * abs(task.eta_at - task.finished_at) / (task.finished_at - task.asked_at)
        for task in seen
        if task.eta_at is not None and task.asked_at is not None
    ]
    ours = spread([errors])
    totals = spread([[task.total_s for task in seen]])
    told = f"{len(errors)} of {len(seen)} tasks were told one"
    return Figure(
        name=f"eta_at, {load:.0%} load",
        what="off by, as a part of the time that the task took",
        floor_what="",
        unit="%",
        ours=ours,
        target=f"p50 at most {MOST:g} %",
        met=ours.p50 <= MOST,
        notes=(
            f"{told}; they took p50 {totals.p50:.1f}, p95 {totals.p95:.1f} s to the end",
            f"eight unequal GPUs, nothing is sped up; {WARM_UP} tasks before are not counted; one run",
            f"GET /api/v1/queues says, of all so far: {said}",
        ),
    )


async def _said(rig: Rig) -> str:
    async with rig.http.get(f"{rig.url}/api/v1/queues") as answer:
        queues: list[dict[str, Any]] = (await answer.json())["queues"]
    told = (
        f"{queue['model']} {error['median']:.0%} (p90 {error['p90']:.0%}, {error['tasks']} tasks)"
        for queue in queues
        if (error := queue["eta_error"])
    )
    return ", ".join(told) or "nothing"
