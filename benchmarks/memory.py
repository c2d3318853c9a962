"""What the processes weigh after the loads of the other figures."""

from typing import Final

from benchmarks import throughput
from benchmarks.measure import Figure, spread
from benchmarks.rig import Bench

LIMITS_MB: Final = {"api": 150.0, "dispatcher": 100.0, "projector": 100.0}


async def measure(bench: Bench) -> list[Figure]:
    """Sum up what the rigs so far have seen; where there was none, put one under load."""
    if not {seen.process for seen in bench.memory} >= LIMITS_MB.keys():
        await throughput.measure(bench)
    return [_figure(bench, name, limit) for name, limit in LIMITS_MB.items()]


def _figure(bench: Bench, name: str, limit: float) -> Figure:
    ours = spread([[seen.now] for seen in bench.memory if seen.process == name])
    return Figure(
        name=f"memory, {name}",
        what="resident, at the end of each load",
        floor_what="",
        unit="MB",
        ours=ours,
        target=f"at most {limit:g} MB",
        met=ours.max < limit,
        series="memory",
    )
