"""How long a GPU stands idle between two tasks while others wait: by the simulator's own books.

The one rule: the floor is a loop without any queue, so what the simulator and HTTP take is seen apart.
A picture is drawn within the GPU's time; encoding and sending the answer belong to the gap.
"""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any, Final

import msgspec

from benchmarks.client import Connection, post
from benchmarks.measure import MILLISECONDS, Figure, Samples, percentile, spread
from benchmarks.rig import Bench, Rig
from benchmarks.submit import PATH
from schemas.ids import TaskId
from services.gpusim.control import Control
from services.gpusim.model import Job, Options, Outcome, ProfileName

STEPS: Final = 4
SIDE: Final = 512
IN_CALL_STEP_MS: Final = 25.0
IN_CALL_TASKS: Final = 120
IN_CALL_FLOOR: Final = 50
IN_CALL_MOST_MS: Final = 10.0
POLLED_STEP_MS: Final = 500.0
POLLED_GPUS: Final = 3
POLLED_TASKS: Final = 5
POLLED_FLOOR: Final = 3
POLLED_MOST: Final = 2.0
POLL_S: Final = 0.01

Direct = Callable[[Rig, str, str], Awaitable[None]]
"""Has one picture of this prompt made by the simulator at this url, without Taskfold."""


async def in_call(bench: Bench) -> list[Figure]:
    """Measure a protocol that answers in the call."""
    options = Options(profile=ProfileName.OPENAI, step_ms=IN_CALL_STEP_MS)
    async with bench.rig() as rig:
        books = _Books(rig, await rig.gpus(1, options, "openai_images"))
        await rig.start("projector", "dispatcher", "api")
        await books.through_taskfold(5)
        floor_runs, our_runs = await bench.in_turns(
            lambda: books.directly(IN_CALL_FLOOR, openai), lambda: books.through_taskfold(IN_CALL_TASKS)
        )
    ours = spread(our_runs)
    figure = Figure(
        name="gap, answer in the call",
        what=f"idle time of the GPU between tasks of {books.task_s * 1000:.0f} ms",
        floor_what="a loop that sends the next request on the answer",
        unit=MILLISECONDS,
        ours=ours,
        floor=spread(floor_runs),
        target=f"p99 under {IN_CALL_MOST_MS:g} ms",
        met=ours.p99 < IN_CALL_MOST_MS,
    )
    return [figure]


async def polled(bench: Bench) -> list[Figure]:
    """Measure a protocol whose end is found out by asking."""
    async with bench.rig() as rig:
        options = Options(profile=ProfileName.SDCPP, step_ms=POLLED_STEP_MS)
        books = _Books(rig, await rig.gpus(POLLED_GPUS, options, "sdcpp"))
        await rig.start("projector", "dispatcher", "api")
        await books.through_taskfold(1)
        floor_runs, our_runs = await bench.in_turns(
            lambda: books.directly(POLLED_FLOOR, sdcpp), lambda: books.through_taskfold(POLLED_TASKS)
        )
    share = 100 / books.task_s / 1000
    shares = spread([[gap * share for gap in run] for run in our_runs])
    floor = spread([[gap * share for gap in run] for run in floor_runs])
    figure = Figure(
        name="gap, polled",
        what=f"idle time of the GPU between tasks of {books.task_s:.2f} s",
        floor_what=f"a loop that asks every {POLL_S * 1000:g} ms",
        unit="% of the task",
        ours=shares,
        floor=floor,
        target=f"p50 at most {POLLED_MOST:g} %",
        met=shares.p50 <= POLLED_MOST,
        notes=(f"p99 {'is within' if shares.p99 <= POLLED_MOST else 'is not within'} it as well",),
    )
    return [figure]


class _Books:
    """The simulators' records of the runs. ``task_s``: the usual time of a task on a GPU."""

    def __init__(self, rig: Rig, urls: list[str]) -> None:
        self._rig = rig
        self._urls = urls
        self._runs = 0
        self._task_times: Samples = []

    @property
    def task_s(self) -> float:
        return percentile(sorted(self._task_times), 0.5)

    async def through_taskfold(self, each: int) -> Samples:
        """Queue so many tasks for each GPU at once and wait for their end; gaps in milliseconds."""
        prompt = self._next_prompt()
        async with self._rig.connection() as connection:
            task_ids = [await submitted(connection, prompt) for _ in range(each * len(self._urls))]
        await self._rig.finish(task_ids)
        return await self._gaps(prompt)

    async def directly(self, each: int, make: Direct) -> Samples:
        """Have as many made in a loop for each GPU; gaps in milliseconds."""
        prompt = self._next_prompt()

        async def loop(url: str) -> None:
            for _ in range(each):
                await make(self._rig, url, prompt)

        async with asyncio.TaskGroup() as group:
            for url in self._urls:
                group.create_task(loop(url))
        return await self._gaps(prompt)

    def _next_prompt(self) -> str:
        self._runs += 1
        return f"run {self._runs}"

    async def _gaps(self, prompt: str) -> Samples:
        gaps: Samples = []
        for url in self._urls:
            times = await run_times(self._rig, url, prompt)
            self._task_times += [ended - started for started, ended in times]
            gaps += [(later[0] - earlier[1]) * 1000 for earlier, later in pairwise(times)]
        return gaps


async def run_times(rig: Rig, url: str, prompt: str) -> list[tuple[float, float]]:
    """Read from the books when each picture of this prompt was begun and ended, in Unix seconds."""
    return sorted(_times(job) for job in await Control(rig.http, url).jobs() if job.prompt == prompt)


def _times(job: Job) -> tuple[float, float]:
    assert job.outcome is Outcome.DONE, job
    assert job.started_at is not None
    assert job.ended_at is not None
    return job.started_at, job.ended_at


async def submitted(connection: Connection, prompt: str, side: int = SIDE, steps: int = STEPS) -> TaskId:
    """Submit a picture by its api."""
    body = {"prompt": prompt, "width": side, "height": side, "steps": steps, "seed": 1}
    answer = await connection.ask(post(PATH, msgspec.json.encode(body)))
    assert answer.status == 202, answer
    return TaskId(msgspec.json.decode(answer.body)["task_id"])


async def openai(rig: Rig, url: str, prompt: str, side: int = SIDE, steps: int = STEPS) -> None:
    """Ask an OpenAI server for a picture."""
    body = {"prompt": prompt, "size": f"{side}x{side}", "num_inference_steps": steps, "seed": 1}
    async with rig.http.post(f"{url}/v1/images/generations", json=body) as answer:
        assert answer.status == 200
        await answer.read()


async def sdcpp(rig: Rig, url: str, prompt: str) -> None:
    """Ask an sd-server for a picture, and then whether it is there."""
    wanted: dict[str, Any] = {"prompt": prompt, "width": SIDE, "height": SIDE, "seed": 1}  # Any: JSON
    wanted["sample_params"] = {"sample_steps": STEPS}
    async with rig.http.post(f"{url}/sdcpp/v1/img_gen", json=wanted) as answer:
        path = msgspec.json.decode(await answer.read())["poll_url"]
    while True:
        await asyncio.sleep(POLL_S)
        async with rig.http.get(f"{url}{path}") as answer:
            if msgspec.json.decode(await answer.read())["status"] == "completed":
                return
