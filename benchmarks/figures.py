"""The figures. Each function measures one thing and says what was promised for it."""

import asyncio
import contextlib
from itertools import pairwise

import psutil  # type: ignore[import-untyped]  # it has no types
from msgspec import json

from benchmarks.client import connected, get, post
from benchmarks.floors import stream
from benchmarks.measure import Distribution, Figure, distribution, ratios
from benchmarks.rig import cluster, floor, gpu, process
from schemas.events import TaskStarted, TaskSubmitted
from schemas.ids import TaskId
from services.bus.streams import ensure_stream
from services.gpusim.control import Control
from tests.cluster import Cluster, eventually

BODY = json.encode({"prompt": "a red fox in the snow", "width": 512, "height": 512, "steps": 4})
OVERHEAD = 1.5


async def submit(runs: int) -> list[Figure]:
    """Time submissions, one at a time, against a bare handler that only awaits a publish."""
    ours: list[Distribution] = []
    floors: list[Distribution] = []
    async with cluster() as made:
        await made.start("projector", "api")
        async with made.log() as (bus, _):
            await ensure_stream(bus, stream())
        async with (
            floor("submit", made.nats.url) as port,
            connected(made.port) as api,
            connected(port) as bare,
        ):
            requests = [(bare, post("/floor", BODY)), (api, post("/api/v1/image/async", BODY))]
            for _ in range(runs + 1):
                for (client, request), kept in zip(requests, (floors, ours), strict=True):
                    taken = await client.timed(lambda _, r=request: r, 600, 202)  # type: ignore[misc]  # bound now
                    kept.append(distribution(taken))
        memory = memory_of("api", "projector")
    # The first run of each warms it up.
    return [compared("submit", ours[1:], floors[1:]), memory_figure(memory)]


async def status(runs: int) -> list[Figure]:
    """Time status by id while a writer runs, against a bare handler with one SQLite read."""
    ours: list[Distribution] = []
    floors: list[Distribution] = []
    async with cluster() as made:
        await made.start("projector", "api")
        ids = [await made.submit(f"fox {n}") for n in range(200)]
        for task_id in ids[-1:]:
            await made.reached(task_id, "QUEUED")
        with process("benchmarks.floors", "writer", made.nats.url, "200"):
            async with (
                floor("status", str(made.readmodel.resolve())) as port,
                connected(made.port) as api,
                connected(port) as bare,
            ):
                for _ in range(runs + 1):
                    for client, prefix, kept in (
                        (bare, "/floor", floors),
                        (api, "/api/v1/tasks", ours),
                    ):
                        taken = await client.timed(
                            lambda n, p=prefix: get(f"{p}/{ids[n % len(ids)]}"),  # type: ignore[misc]  # bound now
                            1500,
                            200,
                        )
                        kept.append(distribution(taken))
    return [compared("status by id, while 200 tasks/s are written", ours[1:], floors[1:])]


def compared(name: str, ours: list[Distribution], floors: list[Distribution]) -> Figure:
    found = ratios(ours, floors)
    middle = sorted(found)[len(found) // 2]
    return Figure(
        name=name,
        runs=tuple(ours),
        floors=tuple(floors),
        target=f"p50 at most {OVERHEAD} times the floor",
        value=f"p50 {middle} times the floor ({', '.join(map(str, found))})",
        held=middle <= OVERHEAD,
    )


async def idle(runs: int) -> list[Figure]:
    """Take, from the log's own times, how long a submission waits for an idle dispatcher."""
    measured: list[Distribution] = []
    async with cluster() as made, gpu(made, "IMAGE_GEN_URL_1", "openai", 0.0):
        await made.up()
        await made.finished(await made.submit())
        async with made.log() as (_, log):
            for _ in range(runs):
                waits = []
                for _ in range(60):
                    task_id = await made.submit(width=64, height=64, steps=1)
                    await made.document(task_id, wait_s=10)
                    found = await log.lookup(task_id)
                    at = {type(r.event): r.at for r in found.history}
                    waits.append((at[TaskStarted] - at[TaskSubmitted]).total_seconds() * 1000)
                measured.append(distribution(waits))
        memory = memory_of("api", "dispatcher", "projector")
    worst = max(run.p50 for run in measured)
    return [
        Figure(
            name="idle: submitted to started, both stored",
            runs=tuple(measured),
            target="p50 < 5 ms",
            value=f"p50 {worst} ms",
            held=worst < 5,
        ),
        memory_figure(memory),
    ]


async def gap(runs: int) -> list[Figure]:
    """Take, from the GPU's own times, how long it stands idle between two tasks of a backlog."""
    called = [await backlog("openai", 40.0, 40, steps=4) for _ in range(runs)]
    gaps = [distribution(gap for gap, _ in pairs) for pairs in called]
    polled = [await backlog("sdcpp", 100.0, 8, steps=20) for _ in range(max(1, runs - 1))]
    shares = [distribution((100 * gap / took for gap, took in pairs), "%") for pairs in polled]
    worst = sorted(run.p99 for run in gaps)[len(gaps) // 2]
    share = sorted(run.p50 for run in shares)[len(shares) // 2]
    return [
        Figure(
            name="GPU gap, protocol that answers in the call, 160 ms tasks",
            runs=tuple(gaps),
            target="p99 < 15 ms",
            value=f"p99 {worst} ms",
            held=worst < 15,
        ),
        Figure(
            name="GPU gap, polled protocol, 2 s tasks, as a share of the task",
            runs=tuple(shares),
            target="at most 2 %",
            value=f"p50 {share} %",
            held=share <= 2,
        ),
    ]


async def backlog(profile: str, step_ms: float, tasks: int, *, steps: int) -> list[tuple[float, float]]:
    """Run a backlog on one GPU; milliseconds of each gap and of the task before it."""
    async with cluster() as made, gpu(made, "IMAGE_GEN_URL_1", profile, step_ms) as control:
        await made.up()
        ids = [await made.submit(width=512, height=512, steps=steps) for _ in range(tasks)]
        for task_id in ids:
            await made.finished(task_id)
        return await gaps_of(control)


async def gaps_of(control: Control) -> list[tuple[float, float]]:
    jobs = [job for job in await control.jobs() if job.started_at is not None and job.ended_at is not None]
    spans = sorted((job.started_at or 0.0, job.ended_at or 0.0) for job in jobs)
    # The first ones teach the dispatcher how long a task takes.
    return [
        ((after[0] - before[1]) * 1000, (before[1] - before[0]) * 1000)
        for before, after in list(pairwise(spans))[2:]
    ]


async def throughput(runs: int) -> list[Figure]:
    """Count tasks a second through the whole pipeline with GPUs that take no time."""
    rates = []
    for _ in range(max(1, runs - 1)):
        async with cluster() as made, contextlib.AsyncExitStack() as stack:
            for number in range(1, 5):
                await stack.enter_async_context(gpu(made, f"IMAGE_GEN_URL_{number}", "openai", 0.0))
            await made.up()
            await made.finished(await made.submit())
            rates.append(await drained(made, 200))
    return [
        Figure(
            name="whole pipeline, 4 instant GPUs on the same cores",
            runs=(distribution(rates, "tasks/s"),),
            target="none, for information",
            value=f"{max(rates):.0f} tasks/s",
        )
    ]


async def drained(made: Cluster, count: int) -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    ids: list[TaskId] = await asyncio.gather(
        *(made.submit(width=64, height=64, steps=1) for _ in range(count))
    )

    async def all_done() -> bool:
        _, answer = await made.ask("GET", "/api/v1/tasks", params={"status": "DONE", "limit": "200"})
        return len({task["task_id"] for task in answer["tasks"]} & set(ids)) >= count - 1

    await eventually(all_done, "the backlog is done")
    return round(count / (loop.time() - begun), 1)


LIMITS_MB = {"api": 150, "dispatcher": 100, "projector": 100}


def memory_of(*names: str) -> dict[str, float]:
    """Give the resident memory of our processes, in MB."""
    found = {}
    for child in psutil.Process().children(recursive=True):
        command = child.cmdline()
        for name in names:
            if command[-2:] == ["services", name]:
                found[name] = round(child.memory_info().rss / 1e6, 1)
    return found


def memory_figure(found: dict[str, float]) -> Figure:
    return Figure(
        name="memory",
        runs=(),
        target=", ".join(f"{name} < {LIMITS_MB[name]} MB" for name in found),
        value=", ".join(f"{name} {mb:g} MB" for name, mb in found.items()),
        held=all(mb < LIMITS_MB[name] for name, mb in found.items()),
    )


FIGURES = {"submit": submit, "status": status, "idle": idle, "gap": gap, "throughput": throughput}
