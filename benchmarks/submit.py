"""How long a submission takes, from the client's side: accepted is stored and synced."""

import contextlib
from collections.abc import AsyncIterator
from itertools import repeat
from typing import Final

import msgspec

from benchmarks import floors
from benchmarks.client import connected, post
from benchmarks.measure import MILLISECONDS, Figure, spread
from benchmarks.pacing import Server, ask
from benchmarks.rig import Bench

BLOCKS: Final = 20
BLOCK: Final = 50
WARM_UP: Final = 400
MOST: Final = 1.3
FLOOR_WHAT: Final = "Litestar handler that awaits one publish"
GUARDED_WHAT: Final = "that handler, with the message that ours stores"
BODY: Final = msgspec.json.encode(
    {"prompt": "a red fox in the snow, early light", "width": 1024, "height": 1024, "steps": 20}
)
PATH: Final = "/api/v1/image/async"


async def measure(bench: Bench) -> list[Figure]:
    """Compare with the least there is, and with what the server and the projector leave of that."""
    return [
        await _compared(bench, "submit", "submit", FLOOR_WHAT),
        await _compared(bench, "submit, guarded floor", "guarded", GUARDED_WHAT),
    ]


async def _compared(bench: Bench, name: str, floor_name: str, what: str) -> Figure:
    async with (
        both(bench, floor_name) as (floor, ours),
        connected(floor.url) as one,
        connected(ours.url) as other,
    ):
        await ask(one, floor, WARM_UP)
        await ask(other, ours, WARM_UP)
        floor_runs, our_runs = await bench.in_turns(
            lambda: ask(one, floor, BLOCK), lambda: ask(other, ours, BLOCK), BLOCKS
        )
    figure = Figure(
        name=name,
        what=f"POST {PATH}, one client",
        floor_what=what,
        unit=MILLISECONDS,
        ours=spread(our_runs),
        floor=spread(floor_runs),
        target=f"p50 at most {MOST:g} times its floor",
        ratio_target=MOST,
    )
    return figure.judged()


@contextlib.asynccontextmanager
async def both(bench: Bench, name: str = "submit") -> AsyncIterator[tuple[Server, Server]]:
    """Start what takes submissions: the floor of that name, and ours."""
    async with bench.rig(queue_limit=1_000_000) as rig:
        await floors.prepare(rig.bus)
        await rig.start("projector", "api")
        floor_url = await rig.beside("benchmarks.floors", name, rig.settings.bus_url)
        yield (
            Server(floor_url, repeat(post("/submit", BODY)), 202),
            Server(rig.url, repeat(post(PATH, BODY)), 202),
        )
