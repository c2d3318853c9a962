"""What grows with the number of tenants, of queues, of GPUs or of waiting tasks: nothing should.

The one rule: the least crowd and a larger one are up at the same time and are asked in turns, so the noise
of the machine hits both. Both queues stand behind a picture that hangs on the only GPU for them: a paused
queue would cost less than one that waits; what was submitted as a sample is cancelled, and what was run is
filled up again. Of all crowds as many are asked for by id, all over the line: who asks again costs less.
"""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from itertools import islice, pairwise
from typing import Final

import msgspec
from msgspec import Struct

from benchmarks import backlog
from benchmarks.client import Connection, get, post
from benchmarks.measure import MILLISECONDS, Figure, Samples, Spread, spread
from benchmarks.rig import Bench, Rig, until
from benchmarks.submit import PATH
from schemas.ids import TaskId
from services.gpusim.control import Control
from services.gpusim.model import Fault, Job, Options, ProfileName

DEPTHS: Final = (100, 1_000, 10_000, 100_000)
TENANTS: Final = (10, 100, 1_000)
QUEUES: Final = (10, 100, 1_000)
FLEETS: Final = (2, 16, 64)
OF_SEVERAL: Final = 2_000
"""So many tasks wait, whoever's they are, and whatever model they are for."""
MOST: Final = 1.2
BLOCKS: Final = 10
BLOCK: Final = 20
WARM_UP: Final = 100
STARTS: Final = 15
SIDE: Final = 64
STEPS: Final = 4
TASK_S: Final = 0.1
TASKS: Final = "/api/v1/tasks"
PROMPT: Final = "a red fox"
WAITS: Final = b'"status":"QUEUED"'
ASKED: Final = DEPTHS[0]
FAR: Final = 617
LONG_S: Final = 7200.0


class Crowd(Struct, frozen=True):
    """So many tasks in all, of so many tenants, of each as many, and of the models in turns.

    ``queues``: so many models there are, which the one GPU has all. ``gpus``: so many there are; the others
    have other models, and are idle.
    """

    depth: int
    tenants: int = 1
    queues: int = 1
    gpus: int = 1

    @property
    def models(self) -> list[str]:
        """Name the models; none where tasks are for any."""
        named = self.queues > 1 or self.gpus > 1
        return [f"model-{number}" for number in range(self.queues)] if named else []

    @property
    def along(self) -> tuple[str, int]:
        """Give what there are many of, and how many."""
        if self.tenants > 1:
            return "tenants", self.tenants
        if self.gpus > 1:
            return "GPUs", self.gpus
        return ("queues", self.queues) if self.queues > 1 else ("waiting tasks", self.depth)


async def measure(bench: Bench) -> list[Figure]:
    least = Crowd(DEPTHS[0])
    deep = [Crowd(depth) for depth in _sizes(bench, DEPTHS)]
    few = Crowd(OF_SEVERAL, tenants=TENANTS[0])
    many = [Crowd(OF_SEVERAL, tenants=tenants) for tenants in _sizes(bench, TENANTS)]
    narrow = Crowd(OF_SEVERAL, queues=QUEUES[0])
    wide = [Crowd(OF_SEVERAL, queues=queues) for queues in _sizes(bench, QUEUES)]
    small = Crowd(DEPTHS[0], gpus=FLEETS[0])
    large = [Crowd(DEPTHS[0], gpus=gpus) for gpus in _sizes(bench, FLEETS)]
    return [
        *await _swept(bench, least, deep),
        *await _swept(bench, few, many),
        *await _swept(bench, narrow, wide),
        *await _swept(bench, small, large),
    ]


def _sizes(bench: Bench, numbers: tuple[int, ...]) -> list[int]:
    """Scale what is larger than the least; what would not be is left out."""
    least, *others = numbers
    return [number for number in map(bench.sized, others) if number > least]


async def _swept(bench: Bench, least: Crowd, others: list[Crowd]) -> list[Figure]:
    figures: list[Figure] = []
    async with _gathered(bench, least) as floor:
        for crowd in others:
            async with _gathered(bench, crowd) as ours:
                figures += await _compared(bench, floor, ours)
    return figures


async def _compared(bench: Bench, floor: "Queue", ours: "Queue") -> list[Figure]:
    for queue in (floor, ours):
        await queue.submissions(WARM_UP)
        await queue.reads(WARM_UP)
        await queue.gaps(STARTS)
    figures = []
    for name, what, blocks, (less, more) in (
        ("submit", f"POST {PATH}", BLOCKS, (floor.submissions, ours.submissions)),
        ("status", f"GET {TASKS}/{{id}} of who waits", BLOCKS, (floor.reads, ours.reads)),
        ("gap", f"GPU idle between tasks of {TASK_S * 1000:g} ms", 1, (floor.gaps, ours.gaps)),
    ):
        floor_runs, our_runs = await bench.in_turns(less, more, blocks)
        figures.append(_figure(name, what, (floor, spread(floor_runs)), (ours, spread(our_runs))))
    return figures


def _figure(name: str, what: str, floor: tuple["Queue", Spread], ours: tuple["Queue", Spread]) -> Figure:
    (few, less), (many, more) = floor, ours
    things, at = many.crowd.along
    figure = Figure(
        name=f"{name}, {at:,} {things}",
        ratio_target=MOST,
        what=what,
        floor_what=f"the same with {few.crowd.along[1]:,}",
        unit=MILLISECONDS,
        ours=more,
        floor=less,
        target=f"p50 at most {MOST:g} times that",
        notes=(many.told(),),
        series=f"{name} by {things}",
        along=things,
        at=float(at),
    )
    return figure.judged()


@contextlib.asynccontextmanager
async def _gathered(bench: Bench, crowd: Crowd) -> AsyncIterator["Queue"]:
    """Start everything with a GPU that hangs, and let the crowd come."""
    options = Options(profile=ProfileName.OPENAI, step_ms=TASK_S * 1000 / STEPS * (512 / SIDE) ** 2)
    settings = {"trust_tenant_header": True, "queue_limit": 1_000_000}
    for_hanging = {"run_timeout_s": LONG_S, "drain_grace_s": 0}
    async with bench.rig(nats_sync="default", **settings, **for_hanging) as rig:
        query = f"?models={','.join(crowd.models)}" if crowd.models else ""
        (url,) = await rig.unequal_gpus([options], "openai_images", query)
        if crowd.gpus > 1:
            await rig.unequal_gpus([options] * (crowd.gpus - 1), "openai_images", "?models=another")
        await rig.start("projector", "dispatcher", "api")
        async with rig.connection() as connection:
            queue = Queue(rig, connection, Control(rig.http, url), crowd)
            await queue.fill()
            yield queue


class Queue:
    """A crowd that waits; samples are taken of it and leave it as it was."""

    def __init__(self, rig: Rig, connection: Connection, gpu: Control, crowd: Crowd) -> None:
        self.crowd = crowd
        self._rig = rig
        self._connection = connection
        self._gpu = gpu
        tenants = [f"tenant-{number}" for number in range(crowd.tenants)] if crowd.tenants > 1 else [""]
        models: Sequence[str | None] = crowd.models or (None,)
        self._sorts = [(tenant, model) for tenant in tenants for model in models]
        self._turns = itertools.cycle(self._sorts)
        self._asked: list[TaskId] = []
        self._last: list[TaskId] = []
        self._place = 0
        self._filled_s = 0.0

    def told(self) -> str:
        """Say what it weighs, and how fast it came."""
        weights = ", ".join(f"{each.process} {each.now:.0f}" for each in self._rig.memory())
        return f"resident MB: {weights}; it came at {self.crowd.depth / self._filled_s:.0f} tasks/s"

    async def fill(self) -> None:
        """Hold the GPU with the first task, and submit the others."""
        await self._gpu.script(Fault.HANG)
        began = time.monotonic()
        await self._submit(1)
        await until(self._holds)
        each = self.crowd.depth // len(self._sorts)
        waiting: list[TaskId] = []
        for _ in self._sorts:
            waiting += await self._submit(each)
        self._asked = waiting[:: max(1, len(waiting) // ASKED)]
        await backlog.queued(self._rig, each * len(self._sorts))
        self._filled_s = time.monotonic() - began

    async def submissions(self, count: int = BLOCK) -> Samples:
        """Submit one after the other, each of another tenant and model; milliseconds each."""
        requests = [post(PATH, _body(model), tenant) for tenant, model in islice(self._turns, count)]
        answers = [await self._connection.ask(request) for request in requests]
        for answer in answers:
            assert answer.status == 202, answer
            task_id = msgspec.json.decode(answer.body)["task_id"]
            ended = await self._connection.ask(post(f"{TASKS}/{task_id}/cancel", b""))
            assert ended.status == 200, ended
        return [answer.taken_s * 1000 for answer in answers]

    async def reads(self, count: int = BLOCK) -> Samples:
        """Ask for a hundred in turns, each far from the last; milliseconds each of those that wait."""
        samples: Samples = []
        while len(samples) < count:
            self._place = (self._place + FAR) % len(self._asked)
            answer = await self._connection.ask(get(f"{TASKS}/{self._asked[self._place]}"))
            assert answer.status == 200, answer
            if WAITS in answer.body:
                samples.append(answer.taken_s * 1000)
            else:  # it was run for the sake of the gaps
                self._asked[self._place] = self._last.pop()
        return samples

    async def gaps(self, count: int = STARTS) -> Samples:
        """Let so many run, and fill up; milliseconds between one and the next."""
        before = await self._gpu.stats()
        await self._gpu.clear()

        async def enough() -> bool:
            return (await self._gpu.stats()).jobs.done - before.jobs.done > count

        await until(enough)
        await self._gpu.script(Fault.HANG)
        await until(self._holds)
        jobs = [job for job in await self._gpu.jobs() if job.id >= before.jobs.received - 1]
        for _ in range(len(jobs) - 1):
            self._last += await self._submit(1)
        return [_gap_ms(earlier, later) for earlier, later in pairwise(jobs)]

    async def _submit(self, count: int) -> list[TaskId]:
        """Submit so many of the tenant and the model whose turn it is."""
        tenant, model = next(self._turns)
        return await backlog.submit(
            self._rig, count, PROMPT, side=SIDE, steps=STEPS, tenant=tenant, model=model
        )

    async def _holds(self) -> bool:
        """Whether a picture hangs, so that nothing else can begin."""
        jobs = await self._gpu.jobs()
        return bool(jobs) and jobs[-1].fault is not None and jobs[-1].ended_at is None


def _body(model: str | None) -> bytes:
    return msgspec.json.encode(backlog.picture(PROMPT, side=SIDE, steps=STEPS, model=model))


def _gap_ms(earlier: Job, later: Job) -> float:
    assert earlier.ended_at is not None, earlier
    assert later.started_at is not None, later
    return (later.started_at - earlier.ended_at) * 1000
