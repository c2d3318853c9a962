"""How long it takes to ask for a task by its id, while the projector writes."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Final

import msgspec

from benchmarks.client import Connection, get, post
from benchmarks.measure import MILLISECONDS, Figure, Samples, spread
from benchmarks.rig import Bench
from benchmarks.submit import BODY, PATH

TASKS: Final = 1000
WRITES_A_SECOND: Final = 200
BLOCKS: Final = 20
BLOCK: Final = 100
WARM_UP: Final = 400
MOST: Final = 1.5
OURS: Final = "/api/v1/tasks/"
FLOOR: Final = "/tasks/"


async def measure(bench: Bench) -> list[Figure]:
    async with bench.rig(queue_limit=100_000) as rig:
        await rig.start("projector", "api")
        floor_url = await rig.beside("benchmarks.floors", "status", str(rig.settings.readmodel_path))
        async with rig.connection(floor_url) as floor, rig.connection() as ours:
            task_ids = await _submitted(ours)
            await _projected(floor, task_ids[-1])
            chosen = _scattered(task_ids)
            await rig.beside("benchmarks.writer", rig.settings.bus_url, str(WRITES_A_SECOND))
            await _reads(floor, FLOOR, chosen, WARM_UP)
            await _reads(ours, OURS, chosen, WARM_UP)
            floor_runs, our_runs = await bench.in_turns(
                lambda: _reads(floor, FLOOR, chosen, BLOCK),
                lambda: _reads(ours, OURS, chosen, BLOCK),
                BLOCKS,
            )
    figure = Figure(
        name="status",
        what=f"GET {OURS}{{id}}, {WRITES_A_SECOND} tasks/s are written meanwhile",
        floor_what="Litestar handler with one SQLite read of that row",
        unit=MILLISECONDS,
        ours=spread(our_runs),
        floor=spread(floor_runs),
        target=f"p50 at most {MOST:g} times its floor",
    )
    return [msgspec.structs.replace(figure, met=(figure.ratio or 0) <= MOST)]


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


def _scattered(task_ids: list[str]) -> Iterator[str]:
    """Give them again and again, each time another far from the last."""
    return (task_ids[number * 617 % len(task_ids)] for number in itertools.count())


async def _reads(connection: Connection, path: str, task_ids: Iterator[str], count: int) -> Samples:
    """Ask for one after the other; milliseconds each."""
    samples = []
    for task_id in itertools.islice(task_ids, count):
        answer = await connection.ask(get(f"{path}{task_id}"))
        assert answer.status == 200, answer
        samples.append(answer.taken_s * 1000)
    return samples
