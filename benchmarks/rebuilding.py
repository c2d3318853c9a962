"""How fast the read model is made anew from the log, and what readers feel of it meanwhile.

The one rule: reads come at their times, whoever waits, and are counted from when they were due.
"""

import asyncio
import contextlib
import time
from typing import Final, Self

import msgspec
from msgspec import Struct

from benchmarks import grown
from benchmarks.client import Connection, connect, get
from benchmarks.grown import Grown
from benchmarks.measure import MILLISECONDS, Figure, Samples, spread
from benchmarks.rig import Bench, Rig
from benchmarks.scale import TASKS

READS_A_SECOND: Final = 500
QUIET_S: Final = 10.0
CONNECTIONS: Final = 16
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
        for _ in range(bench.runs):
            alone.append(await _build(rig))
            async with Reader(rig, filled) as reader:
                await asyncio.sleep(QUIET_S)
            quiet.append(reader.samples)
            faults += reader.errors
            async with Reader(rig, filled) as reader:
                beside.append(await _build(rig))
            reads.append(reader.samples)
            faults += reader.errors
    return [_speed(filled, alone, beside), _felt(quiet, reads, faults)]


async def _build(rig: Rig) -> Built:
    """Have the read model made anew, as a user does."""
    before_s = rig.children_s("projector")
    said = await rig.beside("services", "rebuild", "--json", patience_s=grown.PATIENCE_S)
    [told] = msgspec.json.decode(said)["rebuilds"]
    assert told["before"] == told["after"] is not None, "it is not the same"
    return Built(told["built_s"], told["in_place_s"], rig.children_s("projector") - before_s)


class Reader:
    """Asks for tasks by id at a steady rate while it is entered; milliseconds from when each was due."""

    def __init__(self, rig: Rig, filled: Grown) -> None:
        self.samples: Samples = []
        self.errors = 0
        self._rig = rig
        self._ids = [get(f"{TASKS}/{task_id}") for task_id in filled.scattered(IDS)]
        self._free: asyncio.Queue[Connection] = asyncio.Queue()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        for _ in range(CONNECTIONS):
            self._free.put_nowait(await connect(self._rig.url))
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._pace = self._group.create_task(self._at_its_pace())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pace.cancel()
        await self._stack.aclose()
        while not self._free.empty():
            self._free.get_nowait().close()

    async def _at_its_pace(self) -> None:
        due = time.perf_counter()
        while True:
            for request in self._ids:
                due += 1 / READS_A_SECOND
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                self._group.create_task(self._ask(request, due))

    async def _ask(self, request: bytes, due: float) -> None:
        connection = await self._free.get()
        answer = await connection.ask(request)
        self.samples.append((time.perf_counter() - due) * 1000)
        if answer.status != 200:
            self.errors += 1
            connection.close()
            connection = await connect(self._rig.url)
        self._free.put_nowait(connection)


def _speed(filled: Grown, alone: list[Built], beside: list[Built]) -> Figure:
    wall = spread([[filled.messages / built.wall_s] for built in beside])
    cpu = [filled.messages / built.cpu_s for built in (*alone, *beside)]
    return Figure(
        name="rebuild",
        what=f"{filled.messages:,} messages of {filled.tasks:,} tasks, {READS_A_SECOND} reads/s meanwhile",
        floor_what="nobody reads",
        unit="messages/s",
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
