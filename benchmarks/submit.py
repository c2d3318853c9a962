"""How long a submission takes, from the client's side: accepted is stored and synced."""

from typing import Final

import msgspec

from benchmarks import floors
from benchmarks.client import Connection, post
from benchmarks.measure import MILLISECONDS, Figure, Samples, spread
from benchmarks.rig import Bench

BLOCKS: Final = 20
BLOCK: Final = 50
WARM_UP: Final = 400
MOST: Final = 1.5
BODY: Final = msgspec.json.encode(
    {"prompt": "a red fox in the snow, early light", "width": 1024, "height": 1024, "steps": 20}
)
PATH: Final = "/api/v1/image/async"


async def measure(bench: Bench) -> list[Figure]:
    async with bench.rig(queue_limit=100_000) as rig:
        await floors.prepare(rig.bus)
        floor_url = await rig.beside("benchmarks.floors", "submit", rig.settings.bus_url)
        await rig.start("projector", "api")
        async with rig.connection(floor_url) as floor, rig.connection() as ours:
            await submissions(floor, "/submit", WARM_UP)
            await submissions(ours, PATH, WARM_UP)
            floor_runs, our_runs = await bench.in_turns(
                lambda: submissions(floor, "/submit", BLOCK), lambda: submissions(ours, PATH, BLOCK), BLOCKS
            )
    figure = Figure(
        name="submit",
        what=f"POST {PATH}, one client",
        floor_what="Litestar handler that awaits one publish",
        unit=MILLISECONDS,
        ours=spread(our_runs),
        floor=spread(floor_runs),
        target=f"p50 at most {MOST:g} times its floor",
    )
    return [msgspec.structs.replace(figure, met=(figure.ratio or 0) <= MOST)]


async def submissions(connection: Connection, path: str, count: int) -> Samples:
    """Submit one after the other; milliseconds each."""
    request = post(path, BODY)
    samples = []
    for _ in range(count):
        answer = await connection.ask(request)
        assert answer.status == 202, answer
        samples.append(answer.taken_s * 1000)
    return samples
