"""Why one would queue at all: a crowd that comes at once, to an endpoint that answers with the picture.

The one rule: the users are the same on both sides, and none of them comes again. A request is safe once
its user has been told so; the endpoint does that with the picture alone, so who has left by then is lost.
It has one GPU, and one request at a time goes to it.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from benchmarks import backlog
from benchmarks.client import Answer, post
from benchmarks.measure import MILLISECONDS, Figure, spread
from benchmarks.playing import SIDE, STEPS, step_ms
from benchmarks.rig import Bench, Rig, until
from benchmarks.submit import PATH
from services.gpusim.control import Control
from services.gpusim.model import Options, ProfileName

USERS: Final = 100
TASK_MS: Final = 10_000
PATIENCE: Final = 6
"""After so many pictures' time a user, or the proxy before the endpoint, gives up: a minute."""
WATCHED: Final = 36
"""For so many pictures' time Taskfold is watched at most."""
AFTERWARDS: Final = 3
"""For so many the endpoint's GPU is watched once everybody has left."""
GPUS: Final = (1, 3)
BODY: Final = msgspec.json.encode({"prompt": "a red fox", "width": SIDE, "height": SIDE, "steps": STEPS})


class Burst(Struct, frozen=True, kw_only=True):
    """What became of the users. ``safe_s``: when each was told; who was lost counts with all he waited.

    ``here`` says in words where they stand when a user's patience is over.
    """

    name: str
    safe_s: list[float]
    refused: int
    timeouts: int
    finished: int
    watched_s: float
    here: str

    @property
    def lost(self) -> int:
        return self.refused + self.timeouts

    @property
    def a_minute(self) -> float:
        return self.finished / self.watched_s * 60


async def measure(bench: Bench) -> list[Figure]:
    task_s = bench.sized(TASK_MS) / 1000
    alone = await _endpoint(bench, task_s)
    ours = [await _taskfold(bench, task_s, gpus) for gpus in GPUS]
    accepted = [_accepted(burst, alone, task_s) for burst in ours]
    every = [alone, *ours]
    return [*accepted, *(_finished(each) for each in every), *(_lost(each) for each in every)]


def _accepted(burst: Burst, alone: Burst, task_s: float) -> Figure:
    figure = Figure(
        name=f"endpoint, until it is safe, {burst.name}",
        what=f"{USERS} users at once, pictures of {task_s:g} s",
        floor_what=f"{alone.name}; who is lost counts with {PATIENCE * task_s:g} s",
        unit=MILLISECONDS,
        ours=spread([[1000 * safe_s for safe_s in burst.safe_s]]),
        floor=spread([[1000 * safe_s for safe_s in alone.safe_s]]),
        target="nobody is lost",
        met=not burst.lost,
        notes=tuple(f"after {PATIENCE * task_s:g} s, {each.name}: {each.here}" for each in (burst, alone)),
    )
    return msgspec.structs.replace(figure, series="until it is safe")


def _finished(burst: Burst) -> Figure:
    return Figure(
        name=f"endpoint, finished, {burst.name}",
        what=f"pictures there for their users, over {burst.watched_s:.0f} s",
        floor_what="",
        unit="a minute",
        ours=spread([[burst.a_minute]]),
        notes=(f"one run; {burst.finished} of {USERS} users have theirs by then",),
        more_is_better=True,
        series="endpoint",
    )


def _lost(burst: Burst) -> Figure:
    return Figure(
        name=f"endpoint, lost, {burst.name}",
        what=f"of {USERS} users at once",
        floor_what="",
        unit="users",
        ours=spread([[float(burst.lost)]]),
        notes=(f"{burst.timeouts} gave up, {burst.refused} were refused",),
        series="lost requests",
    )


async def _endpoint(bench: Bench, task_s: float) -> Burst:
    async with bench.rig() as rig:
        (gpu,) = await rig.gpus(1, _options(task_s), "openai_images")
        url = await rig.beside("benchmarks.floors", "endpoint", gpu)
        asked = await _burst(rig, url, "/image", 200, PATIENCE * task_s)
        drawn = (await Control(rig.http, gpu).stats()).jobs.done
        await asyncio.sleep(AFTERWARDS * task_s)
        more = (await Control(rig.http, gpu).stats()).jobs.done - drawn
    answered = USERS - asked.refused - asked.timeouts
    return msgspec.structs.replace(
        asked,
        name="a synchronous endpoint",
        finished=answered,
        here=f"{answered} pictures there, {asked.lost} users have nothing; "
        f"in the {AFTERWARDS * task_s:g} s after that its GPU draws {more} more, for nobody",
    )


async def _taskfold(bench: Bench, task_s: float, gpus: int) -> Burst:
    loop = asyncio.get_running_loop()
    async with bench.rig() as rig:
        await rig.gpus(gpus, _options(task_s), "openai_images")
        await rig.start("projector", "dispatcher", "api")
        began = loop.time()
        asked = await _burst(rig, rig.url, PATH, 202, PATIENCE * task_s)
        await asyncio.sleep(began + PATIENCE * task_s - loop.time())
        at_first = await backlog.counts(rig)
        finished = await _watch(rig, USERS - asked.lost, began + WATCHED * task_s)
        watched_s = loop.time() - began
    return msgspec.structs.replace(
        asked,
        name=f"Taskfold, {gpus} GPU{'s' * (gpus > 1)}",
        finished=finished,
        watched_s=watched_s,
        here=f"{at_first['done']} pictures there, {at_first['running']} being drawn, "
        f"{at_first['queued']} waiting, {asked.lost} users have nothing",
    )


async def _watch(rig: Rig, expected: int, end: float) -> int:
    """Wait until all are done, or until this time of the loop; gives how many are."""

    async def over() -> bool:
        counts = await backlog.counts(rig)
        assert not counts["failed"], counts
        return counts["done"] >= expected or asyncio.get_running_loop().time() >= end

    await until(over)
    return (await backlog.counts(rig))["done"]


async def _burst(rig: Rig, url: str, path: str, wanted: int, patience_s: float) -> Burst:
    """Let all users come at once; whoever is not answered in time goes away."""

    async def user() -> Answer | None:
        async with rig.connection(url) as connection:
            try:
                async with asyncio.timeout(patience_s):
                    return await connection.ask(post(path, BODY))
            except TimeoutError:
                return None

    answers: Sequence[Answer | None] = await asyncio.gather(*(user() for _ in range(USERS)))
    there = [answer for answer in answers if answer]
    safe_s = [answer.taken_s for answer in there if answer.status == wanted]
    return Burst(
        name="",
        safe_s=safe_s + [patience_s] * (USERS - len(safe_s)),
        refused=len(there) - len(safe_s),
        timeouts=USERS - len(there),
        finished=0,
        watched_s=patience_s,
        here="",
    )


def _options(task_s: float) -> Options:
    return Options(profile=ProfileName.OPENAI, step_ms=step_ms(task_s))
