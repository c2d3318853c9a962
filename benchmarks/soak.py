"""Half an hour of steady work with onlookers who come and go: does anything grow, is anything lost?

The one rule: tasks come at their times, whoever waits, and each stay of an onlooker is checked at its end.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from benchmarks.client import Answer, post
from benchmarks.measure import MILLISECONDS, Figure, Samples, spread
from benchmarks.onlookers import FOLLOWED, POLLED, Onlookers
from benchmarks.pacing import OpenLoop
from benchmarks.rig import Bench, Rig
from benchmarks.submit import PATH
from schemas.ids import TaskId
from services.gpusim.model import Options, ProfileName
from services.process import background

LASTS_S: Final = 1_800.0
TASKS_A_SECOND: Final = 200
ONLOOKERS: Final = 4
PROCESSES: Final = 2
EACH: Final = 4
SIDE: Final = 64
LOOK_S: Final = 1.0
GROWS_MOST: Final = 1.1
DRAINED_S: Final = 300.0
FAULTS: Final = ("gaps", "repeats", "out of order", "stale", "ended too early")
_WATCHED: Final = ("api", "projector", "dispatcher")

Weights = dict[str, Samples]
"""Resident memory in MB, every second, by the process."""


async def measure(bench: Bench) -> list[Figure]:
    options = Options(profile=ProfileName.OPENAI, step_ms=0)
    weights: Weights = {name: [] for name in _WATCHED}
    lasts_s = LASTS_S * bench.size
    async with bench.rig(nats_sync="default", queue_limit=1_000_000) as rig:
        for _ in range(PROCESSES):
            await rig.gpus(EACH, options, "openai_images")
        await rig.start("projector", "dispatcher", "api")
        async with asyncio.TaskGroup() as group:
            onlookers = Onlookers(rig, group)
            submitter = Submitter(rig, group, onlookers)
            async with background(onlookers.keep_ledger(), _weigh(rig, weights)):
                before, began = rig.cpu_s(), time.monotonic()
                await _watched(onlookers, submitter, lasts_s)
                wall_s = time.monotonic() - began
                busy = {name: (spent - before[name]) / wall_s for name, spent in rig.cpu_s().items()}
                left = await _drain(rig)
    return [_taken(submitter, onlookers.seen, left, busy, lasts_s), *_grown(weights)]


async def _watched(onlookers: Onlookers, submitter: "Submitter", lasts_s: float) -> None:
    """Submit while onlookers come and go; ends when the last of them has checked the last of its stays."""
    async with asyncio.TaskGroup() as visits:
        for number in range(ONLOOKERS):
            visits.create_task(onlookers.come_and_go(number))
        await submitter.submit(round(lasts_s * TASKS_A_SECOND))
        onlookers.leaving.set()


class Submitter(OpenLoop):
    """Submits at a steady rate, and has some of the tasks watched."""

    def __init__(self, rig: Rig, group: asyncio.TaskGroup, onlookers: Onlookers) -> None:
        super().__init__(rig.url, TASKS_A_SECOND, self._have_watched)
        self._group = group
        self._onlookers = onlookers

    async def submit(self, count: int) -> None:
        await self.run(map(_request, range(count)))

    def _have_watched(self, number: int, answer: Answer) -> None:
        if answer.status != 202:
            return
        task_id = TaskId(msgspec.json.decode(answer.body)["task_id"])
        if number % FOLLOWED == 0:
            self._group.create_task(self._onlookers.follow(task_id))
        elif number % POLLED == 1:
            self._group.create_task(self._onlookers.poll(task_id))


def _request(number: int) -> bytes:
    body = {"prompt": f"a red fox, {number}", "width": SIDE, "height": SIDE, "steps": 1}
    return post(PATH, msgspec.json.encode(body))


async def _weigh(rig: Rig, weights: Weights) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        for seen in rig.memory():
            if seen.process in weights:
                weights[seen.process].append(seen.now)


async def _drain(rig: Rig) -> int:
    """Wait until nothing waits or runs any more; how many did so when nothing more came."""
    first = left = await _left(rig)
    began = time.monotonic()
    while left and time.monotonic() < began + DRAINED_S:
        await asyncio.sleep(LOOK_S)
        left = await _left(rig)
    assert not left, f"{left} tasks are still not done"
    return first


async def _left(rig: Rig) -> int:
    async with rig.http.get(f"{rig.url}/api/v1/queues") as answer:
        queues: list[dict[str, Any]] = (await answer.json())["queues"]  # Any: JSON
    return sum(queue[name] for queue in queues for name in ("waiting", "running"))


def _taken(
    submitter: Submitter, seen: Mapping[str, int], left: int, busy: Mapping[str, float], lasts_s: float
) -> Figure:
    faults = sum(seen[name] for name in FAULTS)
    refused = sum(count for status, count in submitter.answers.items() if status != 202)
    return Figure(
        name=f"{lasts_s / 60:g} minutes at {TASKS_A_SECOND} tasks/s",
        what=f"POST {PATH}, from when it was due",
        floor_what="",
        unit=MILLISECONDS,
        ours=spread([submitter.samples]),
        target="no gap, no repeat, no early end, no document older than an event",
        met=not faults,
        notes=(
            f"{submitter.answers[202]} accepted, {refused} not; {left} not yet done when the last had come",
            "onlookers saw " + ", ".join(f"{count} {name}" for name, count in sorted(seen.items())),
            "of a processor: " + ", ".join(f"{name} {share:.0%}" for name, share in busy.items()),
        ),
        faults=faults,
    )


def _grown(weights: Weights) -> list[Figure]:
    return [_growth(name, samples) for name, samples in weights.items()]


def _growth(name: str, samples: Sequence[float]) -> Figure:
    third = max(1, len(samples) // 3)
    figure = Figure(
        name=f"memory over time, {name}",
        what="resident, in the last third of the time",
        floor_what="in the first third",
        unit="MB",
        ours=spread([list(samples[-third:])]),
        floor=spread([list(samples[:third])]),
        target=f"p50 at most {GROWS_MOST:g} times as much",
        ratio_target=GROWS_MOST,
        series="memory over time",
    )
    return figure.judged()
