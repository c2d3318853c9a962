"""x."""

from benchmarks.measure import Figure
from benchmarks.rig import Bench


async def measure(bench: Bench) -> list[Figure]:
    return []
