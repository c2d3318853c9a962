"""How long it takes to ask for a task by its id, while the projector writes."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Final

import msgspec

from benchmarks.client import Connection, connected, get, post
from benchmarks.measure import MILLISECONDS, Figure, spread
from benchmarks.pacing import Server, ask
from benchmarks.rig import Bench
from benchmarks.submit import BODY, PATH

TASKS: Final = 1000
WRITES_A_SECOND: Final = 200
BLOCKS: Final = 20
BLOCK: Final = 100
WARM_UP: Final = 400
MOST: Final = 1.3
FLOOR_WHAT: Final = "Litestar handler with one SQLite read of that row"
OURS: Final = "/api/v1/tasks/"
FLOOR: Final = "/tasks/"


async def measure(bench: Bench) -> list[Figure]:
    async with both(bench) as (floor, ours), connected(floor.url) as one, connected(ours.url) as other:
        await ask(one, floor, WARM_UP)
        await ask(other, ours, WARM_UP)
        floor_runs, our_runs = await bench.in_turns(
            lambda: ask(one, floor, BLOCK), lambda: ask(other, ours, BLOCK), BLOCKS
        )
    figure = Figure(
        name="status",
        what=f"GET {OURS}{{id}}, {WRITES_A_SECOND} tasks/s are written meanwhile",
        floor_what=FLOOR_WHAT,
        unit=MILLISECONDS,
        ours=spread(our_runs),
        floor=spread(floor_runs),
        target=f"p50 at most {MOST:g} times its floor",
        ratio_target=MOST,
    )
    return [figure.judged()]


@contextlib.asynccontextmanager
async def both(bench: Bench) -> AsyncIterator[tuple[Server, Server]]:
    """Start what is asked for tasks, the floor and ours, and somebody who submits more all the time."""
    async with bench.rig(queue_limit=1_000_000) as rig:
        await rig.start("projector", "api")
        floor_url = await rig.beside("benchmarks.floors", "status", str(rig.settings.readmodel_path))
        async with rig.connection(floor_url) as floor, rig.connection() as ours:
            task_ids = await _submitted(ours)
            await _projected(floor, task_ids[-1])
        await rig.beside("benchmarks.writer", rig.settings.bus_url, str(WRITES_A_SECOND))
        yield (
            Server(floor_url, _scattered(FLOOR, task_ids), 200),
            Server(rig.url, _scattered(OURS, task_ids), 200),
        )


async def _submitted(connection: Connection) -> list[str]:
    request = post(PATH, BODY)
    answers = [await connection.ask(request) for _ in range(TASKS)]
    return [msgspec.json.decode(answer.body)["task_id"] for answer in answers]


async def _projected(floor: Connection, task_id: str) -> None:
    """Wait until the read model has the task."""
    async with asyncio.timeout(30):
        while (  # noqa: ASYNC110 - another process sends no signal
            await floor.ask(get(f"{FLOOR}{task_id}"))
        ).status != 200:
            await asyncio.sleep(0.05)


def _scattered(path: str, task_ids: list[str]) -> Iterator[bytes]:
    """Ask for them again and again, each time for another far from the last."""
    return (get(f"{path}{task_ids[number * 617 % len(task_ids)]}") for number in itertools.count())
