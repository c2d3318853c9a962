"""How fast the read model is made anew from the log, and what readers feel of it meanwhile.

The one rule: reads come at their times, whoever waits, and are counted from when they were due.
"""

import asyncio
import itertools
from typing import Final

import msgspec
from msgspec import Struct

from benchmarks import grown
from benchmarks.client import get
from benchmarks.grown import Grown
from benchmarks.measure import MILLISECONDS, Figure, Samples, spread
from benchmarks.pacing import OpenLoop
from benchmarks.rig import Bench, Rig
from benchmarks.scale import TASKS

READS_A_SECOND: Final = 500
QUIET_S: Final = 10.0
IDS: Final = 20_000
BUILT: Final = 208_000
"""Tasks, of about a million messages."""


class Built(Struct, frozen=True):
    """Seconds until the file was built, and until it served; and of the builder's processor."""

    wall_s: float
    in_place_s: float
    cpu_s: float


async def measure(bench: Bench) -> list[Figure]:
    async with bench.rig(nats_sync="default") as rig:
        filled = await grown.grow(rig, bench.sized(BUILT))
        await rig.start("projector", "api", patience_s=grown.PATIENCE_S)
        alone: list[Built] = []
        beside: list[Built] = []
        quiet: list[Samples] = []
        reads: list[Samples] = []
        faults = 0
        ids = itertools.cycle([get(f"{TASKS}/{task_id}") for task_id in filled.scattered(IDS)])
        for _ in range(bench.runs):
            alone.append(await _build(rig))
            reader = OpenLoop(rig.url, READS_A_SECOND)
            async with reader.meanwhile(ids):
                await asyncio.sleep(QUIET_S)
            quiet.append(reader.samples)
            faults += reader.answers.total() - reader.answers[200]
            reader = OpenLoop(rig.url, READS_A_SECOND)
            async with reader.meanwhile(ids):
                beside.append(await _build(rig))
            reads.append(reader.samples)
            faults += reader.answers.total() - reader.answers[200]
    return [_speed(filled, alone, beside), _felt(quiet, reads, faults)]


async def _build(rig: Rig) -> Built:
    """Have the read model made anew, as a user does."""
    before_s = rig.children_s("projector")
    said = await rig.beside("services", "rebuild", "--json", patience_s=grown.PATIENCE_S)
    [told] = msgspec.json.decode(said)["rebuilds"]
    assert told["before"] == told["after"] is not None, "it is not the same"
    return Built(told["built_s"], told["in_place_s"], rig.children_s("projector") - before_s)


def _speed(filled: Grown, alone: list[Built], beside: list[Built]) -> Figure:
    wall = spread([[filled.messages / built.wall_s] for built in beside])
    cpu = [filled.messages / built.cpu_s for built in (*alone, *beside)]
    return Figure(
        name="rebuild",
        what=f"{filled.messages:,} messages of {filled.tasks:,} tasks, {READS_A_SECOND} reads/s meanwhile",
        floor_what="nobody reads",
        unit="messages/s",
        more_is_better=True,
        ours=wall,
        floor=spread([[filled.messages / built.wall_s] for built in alone]),
        notes=(
            f"of the builder's processor time {min(cpu):,.0f} to {max(cpu):,.0f} messages/s",
            f"in place after {max(one.in_place_s for one in beside):.1f} s at most, the same as before",
            f"the log was filled with {filled.messages / filled.took_s:,.0f} messages/s",
        ),
    )


def _felt(quiet: list[Samples], reads: list[Samples], faults: int) -> Figure:
    return Figure(
        name="reads during a rebuild",
        what=f"GET {TASKS}/{{id}}, {READS_A_SECOND} a second, from the old file",
        floor_what="nothing is rebuilt",
        unit=MILLISECONDS,
        ours=spread(reads),
        floor=spread(quiet),
        target="no errors",
        met=not faults,
        notes=(f"{faults} errors",),
        faults=faults,
    )
