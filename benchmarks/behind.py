"""How long a task waits behind a hundred that may not run yet, in the same lane: nothing else does.

The one rule: one GPU of two is free all the time, and the other busy to the end.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from benchmarks.client import post
from benchmarks.measure import MILLISECONDS, Figure, Samples, spread
from benchmarks.rig import Bench, Rig
from benchmarks.started import BODY, between, our_task
from benchmarks.submit import PATH
from services.gpusim.model import Options, ProfileName

MANY: Final = 100
COUNT: Final = 40
WARM_UP: Final = 10
MOST: Final = 1.3
LARGE: Final = "hog"
BUSY: Final = "image-2"
WHO: Final = {
    "that name a busy GPU": "",
    "of a tenant at its cap": LARGE,
}


async def measure(bench: Bench) -> list[Figure]:
    return [await _taken(bench, who, tenant) for who, tenant in WHO.items()]


async def _taken(bench: Bench, who: str, tenant: str) -> Figure:
    async with _running(bench) as floor, _running(bench) as ours:
        await _fill(floor, tenant, 0)
        await _fill(ours, tenant, MANY)
        await _starts(floor, WARM_UP)
        await _starts(ours, WARM_UP)
        floor_runs, our_runs = await bench.in_turns(lambda: _starts(floor), lambda: _starts(ours))
    figure = Figure(
        name=f"started behind {MANY} {who}",
        what="submitted to TaskStarted, on the GPU that is free",
        floor_what="nobody waits before it",
        unit=MILLISECONDS,
        ours=spread(our_runs),
        floor=spread(floor_runs),
        target=f"p50 at most {MOST:g} times that",
        ratio_target=MOST,
    )
    return figure.judged()


@contextlib.asynccontextmanager
async def _running(bench: Bench) -> AsyncIterator[Rig]:
    chosen: dict[str, Any] = {"lanes": 1, "tenant_running_limit": 1, "trust_tenant_header": True}
    chosen["drain_grace_s"] = 0  # the busy one would be waited for
    async with bench.rig(nats_sync="default", **chosen) as rig:
        gpus = [Options(profile=ProfileName.OPENAI, step_ms=step_ms) for step_ms in (0, 3_600_000)]
        await rig.unequal_gpus(gpus, "openai_images")
        await rig.start("projector", "dispatcher", "api")
        yield rig


async def _fill(rig: Rig, tenant: str, many: int) -> None:
    """Have the second GPU busy, and so many behind it, who wait for it or for their tenant's turn."""
    body: dict[str, Any] = msgspec.json.decode(BODY)
    for_it = msgspec.json.encode({**body, "backend": BUSY})
    async with rig.connection() as connection:
        first = await connection.ask(post(PATH, for_it, tenant or LARGE))
        assert first.status == 202, first
        for _ in range(many):
            request = post(PATH, BODY, tenant) if tenant else post(PATH, for_it, "small")
            answer = await connection.ask(request)
            assert answer.status == 202, answer


async def _starts(rig: Rig, count: int = COUNT) -> Samples:
    async with rig.connection() as connection:
        return [between(await our_task(rig, connection), "started") for _ in range(count)]
