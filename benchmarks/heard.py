"""How long an event takes from its sending to the socket of who follows its task, or all tasks.

The one rule: an event carries the moment of its sending. The floor is a process that passes on every
message of our log's twin as it comes, and knows neither a read model nor where a client was.
"""

import asyncio
from asyncio.subprocess import Process
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from itertools import cycle, islice
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from benchmarks import floors, listening
from benchmarks.measure import MILLISECONDS, Figure, Samples, spread
from benchmarks.pacing import beats
from benchmarks.rig import Bench, Rig
from schemas.events import TaskAttached
from schemas.subjects import Address

RATES: Final = (10, 100, 300)
LASTS_S: Final = 5.0
LEAST: Final = 10
WARM_UP: Final = 50
CLIENTS: Final = 50
"""Of tasks of their own, of which the events come in turn. All tasks are followed by one client."""
SETTLE_S: Final = 1.0


class Side(Struct, frozen=True):
    """Who listens, and the subjects that events are sent to."""

    listeners: list[Process]
    subjects: Iterator[tuple[Address, str]]


async def measure(bench: Bench) -> list[Figure]:
    """Measure the stream of one's own task, then that of all."""
    return [*await _figures(bench, own=True), *await _figures(bench, own=False)]


async def _figures(bench: Bench, *, own: bool) -> list[Figure]:
    async with bench.rig(nats_sync="default") as rig:
        await floors.prepare(rig.bus)
        floor_url = await rig.beside("benchmarks.floors", "follow", rig.settings.bus_url)
        await rig.start("projector", "api")
        addresses = await listening.running(rig, CLIENTS)
        await asyncio.sleep(SETTLE_S)
        floor, ours = await _floor(rig, floor_url, addresses, own=own), await _ours(rig, addresses, own=own)
        for side in (floor, ours):
            await _take(rig, side, RATES[-1], WARM_UP)
        figures = [await _figure(bench, rig, floor, ours, rate) for rate in RATES]
        coalesced = f"events of {rig.settings.sse_coalesce_s * 1000:g} ms go out together"
    whose = "own task" if own else "all tasks"
    return [
        replace(
            figure,
            name=f"event to a stream of {whose}, {figure.at:g}/s",
            notes=figure.notes if own else (*figure.notes, coalesced),
            series=f"event to a stream of {whose}",
        )
        for figure in figures
    ]


async def _floor(rig: Rig, url: str, addresses: Sequence[Address], *, own: bool) -> Side:
    whom = [address.task_id for address in addresses] if own else [floors.ALL]
    listeners = await listening.listen(rig, url, [f"/events/{each}" for each in whom], 1)
    return Side(listeners, cycle([(each, f"floor.{each.task_id}.attached") for each in addresses]))


async def _ours(rig: Rig, addresses: Sequence[Address], *, own: bool) -> Side:
    of_tasks = [f"/api/v1/tasks/{address.task_id}/events" for address in addresses]
    listeners = await listening.listen(rig, rig.url, of_tasks if own else [listening.EVERYBODY], 1)
    return Side(listeners, cycle([(each, each.subject(TaskAttached)) for each in addresses]))


async def _take(rig: Rig, side: Side, rate: float, count: int) -> Samples:
    """Send so many events of one task after the other; milliseconds of each that was heard."""
    left = islice(side.subjects, count)
    async with aclosing(beats(rate)) as moments:
        async for _ in moments:
            if (following := next(left, None)) is None:
                break
            await listening.send(rig, *following)
    await asyncio.sleep(SETTLE_S)
    return listening.latencies(await listening.heard_by(side.listeners))


async def _figure(bench: Bench, rig: Rig, floor: Side, ours: Side, rate: int) -> Figure:
    count = max(LEAST, round(rate * LASTS_S * bench.size))
    floor_runs, our_runs = await bench.in_turns(
        lambda: _take(rig, floor, rate, count), lambda: _take(rig, ours, rate, count)
    )
    missing = sum(abs(count - len(run)) for run in our_runs)
    return Figure(
        name="",
        what="from its sending to the socket of its client",
        floor_what="a process that passes on each message as it comes",
        unit=MILLISECONDS,
        ours=spread(our_runs),
        floor=spread(floor_runs),
        notes=(f"{missing} of {count * bench.runs} were missed",),
        faults=missing,
        along="events/s",
        at=rate,
    )
