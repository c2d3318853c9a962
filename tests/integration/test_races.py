"""All who may end a task, at once: one of them does, and each is told the truth.

The one rule: every writer has looked before any of them writes, so that each race is one.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any, Final, cast

import pytest

from schemas.events import (
    TaskAttached,
    TaskCancelled,
    TaskDone,
    TaskExpired,
    TaskFailed,
    TaskStarted,
    TaskSubmitted,
    Usage,
)
from schemas.ids import BackendId, TaskId
from schemas.requests import ImageSubmission
from schemas.subjects import WAKE_SUBMITTED, Address, Lane, parse_subject
from schemas.task import Status
from services import clock
from services.api.cancelling import CANCELLED, Canceller
from services.api.queries import ReadModel
from services.api.recent import Recent
from services.api.sweeper import Sweeper
from services.bus.connection import Bus, Msg
from services.bus.tasklog import Beginning, Found, TaskLog
from services.bus.tickets import Away, Puller
from services.dispatcher.decider import Again, End, Start, handed_back, with_ticket
from services.dispatcher.instances import Seat, Slot
from services.dispatcher.work import Work
from services.gpusim.model import chance
from services.init.main import prepare
from services.settings import Settings
from tests.builders import attempt_failed, failed, picture
from tests.history import end, histories
from tests.nats import NatsServer

GPU: Final = BackendId("image-1")
LANE: Final = Lane("image", "any", "normal", 0)
ROUNDS: Final = 130
AT_ONCE: Final = 40
DELAYED: Final = 300
PULLERS: Final = 12
NOTHING: Final = cast("Any", None)  # Any: what the part of a writer that is raced here does not use

RACES: Final = (
    ("finish", "cancel"),
    ("finish", "expire"),
    ("cancel", "expire"),
    ("cancel", "cancel too"),
    ("fail", "cancel"),
    ("retry", "cancel"),
    ("hand back", "expire"),
    ("take over", "cancel"),
    ("finish", "cancel", "expire"),
    ("finish", "cancel", "cancel too"),
    ("retry", "cancel", "expire"),
)


class Line:
    """Where the writers of one task stand until all are there; they go in the order of ``names``."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._ready: dict[str, asyncio.Future[None]] = {}

    async def go(self, name: str) -> None:
        if name in self._ready:
            return  # it looks again, after the race
        own = self._ready[name] = asyncio.get_running_loop().create_future()
        if len(self._ready) == len(self._names):
            for each in self._names:
                self._ready[each].set_result(None)
        await own


class HeldLog(TaskLog):
    """A log whose reader is held, after it has looked, until the others have looked too."""

    lines: dict[TaskId, Line]
    name: str

    async def lookup(self, task_id: TaskId, address: Address | None = None) -> Found:
        found = await super().lookup(task_id, address)
        if line := self.lines.get(task_id):
            await line.go(self.name)
        return found


class Writers:
    """Those who write the end of a task, each over a connection of its own."""

    def __init__(self, bus: Bus, others: dict[str, Bus], readmodel: Path) -> None:
        self.lines: dict[TaskId, Line] = {}
        self._bus = bus
        self._plain = TaskLog(bus, "/test", clock.now, clock.new_event_id)
        self._logs = {name: self._held(name, other) for name, other in others.items()}
        model, recent = ReadModel(readmodel, lambda: None), Recent(clock.monotonic)
        self.cancellers = {
            name: Canceller(log, model, recent, clock.now, patience_s=5) for name, log in self._logs.items()
        }

    def _held(self, name: str, bus: Bus) -> HeldLog:
        log = HeldLog(bus, f"/test/{name}", clock.now, clock.new_event_id)
        log.lines, log.name = self.lines, name
        return log

    async def begun(self) -> Address:
        """Store a task that runs and is overdue, so that anybody may end it."""
        where = Address(LANE, clock.new_task_id())
        submission = ImageSubmission(request=picture(), deadline=clock.now() - timedelta(seconds=1))
        submitted = TaskSubmitted(submission=submission)
        first = await self._plain.append(where, submitted, expected=0, patience_s=5)
        started = TaskStarted(attempt=1, backend=GPU, dispatcher="a")
        await self._plain.append(where, started, expected=first, patience_s=5)
        return where

    async def race(self, where: Address, names: tuple[str, ...]) -> dict[str, bool | None]:
        """Have these write at once, and give what each was told: whether its own event ended the task."""
        self.lines[where.task_id] = Line(names)
        told = await asyncio.gather(*(self._write(name, where) for name in names))
        return dict(zip(names, told, strict=True))

    async def _write(self, name: str, where: Address) -> bool | None:
        if name == "expire":
            sweeper = Sweeper(NOTHING, self._logs[name], NOTHING, (), clock.now, 1)
            for _ in ("the race", "its next look"):
                await sweeper._expire(where.task_id, where.prefix)  # noqa: SLF001 - how it ends what it has found
            return None
        if canceller := self.cancellers.get(name):
            return (await canceller.cancel(where.task_id, name, None)).name == CANCELLED
        return await self._dispatch(name, where)

    async def _dispatch(self, name: str, where: Address) -> bool | None:
        """Do what a dispatcher does at the end of an attempt, or in its middle."""
        work = Work(self._plain, Away(where), Seat(NOTHING, Slot(GPU, 0, self._bus)))
        await work.look_up()
        await self.lines[where.task_id].go(name)
        match name:
            case "finish":
                return await work.append(TaskDone(attempt=1, artifacts=(), usage=Usage(run_s=1)))
            case "fail":
                await work.settle(End(failed()))
                return work.task.status is Status.FAILED
            case "retry":
                await work.settle(Again(attempt_failed(), timedelta(0)))
            case "hand back":
                await work.settle(handed_back(work.task, "shutdown", now=clock.now()))
            case _:  # take over
                await work.append(TaskAttached(attempt=1, dispatcher="b", remote_id="job-1"))
        return None


@pytest.fixture
async def writers(bus: Bus, nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Writers]:
    await prepare(bus, Settings(artifact_gib=1))
    async with contextlib.AsyncExitStack() as stack:
        others: dict[str, Bus] = {}
        for name in ("cancel", "cancel too", "expire"):
            other = others[name] = Bus(nats_server.url, name)
            await other.connect()
            stack.push_async_callback(other.close)
        yield Writers(bus, others, tmp_path / "none.db")


def in_turn(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Say who starts first, differently from round to round and always the same."""
    orders = list(permutations(names))
    return orders[int(chance(7, *names, number) * len(orders))]


async def test_of_all_who_may_end_a_task_one_does_and_each_is_told_the_truth(
    writers: Writers, bus: Bus
) -> None:
    told: dict[TaskId, dict[str, bool | None]] = {}
    free = asyncio.Semaphore(AT_ONCE)

    async def race(names: tuple[str, ...]) -> None:
        async with free:
            where = await writers.begun()
            told[where.task_id] = await writers.race(where, names)

    races = [in_turn(names, number) for number in range(ROUNDS) for names in RACES]
    await asyncio.gather(*(race(names) for names in races))
    found = await histories(bus)

    assert len(told) == len(races)
    winners = {task_id: winner(end(found[task_id]).event) for task_id in told}
    for task_id, answers in told.items():
        for name, ours in answers.items():
            assert ours in (None, name == winners[task_id]), (answers, winners[task_id])
    assert set(winners.values()) == {"finish", "fail", "cancel", "cancel too", "expire"}


async def test_a_delayed_task_never_runs_after_a_cancel_that_was_answered_so(
    writers: Writers, bus: Bus
) -> None:
    log = TaskLog(bus, "/test", clock.now, clock.new_event_id)
    canceller = writers.cancellers["cancel"]
    fired: dict[TaskId, asyncio.Event] = {}

    def wake(message: Msg) -> None:
        fired[parse_subject(message.subject)[0].task_id].set()

    await bus.subscribe(WAKE_SUBMITTED, wake)
    soon = clock.now() + timedelta(seconds=3)
    for _ in range(DELAYED):
        where = Address(LANE, clock.new_task_id())
        fired[where.task_id] = asyncio.Event()
        submission = ImageSubmission(request=picture(), not_before=soon)
        await log.begin([Beginning(where, submission)], patience_s=5)
    tasks = list(fired)

    async def cancel(number: int) -> str:
        # Each as another one fires: some before their own schedule, some with it, some behind it.
        await fired[tasks[int(chance(7, number) * DELAYED)]].wait()
        outcome = await canceller.cancel(tasks[number], "cancel", None)
        fired[tasks[number]].set()  # others wait for it, and cancelled in time it never fires
        return outcome.name

    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(PULLERS):
            group.create_task(serve(log, bus, over))
        outcomes = await asyncio.gather(*(cancel(number) for number in range(DELAYED)))
        over.set()
    found = await histories(bus)

    for task_id, outcome in zip(tasks, outcomes, strict=True):
        # How many are cancelled in time is a matter of luck; that each was told the truth is not.
        assert (outcome == CANCELLED) == (winner(end(found[task_id]).event) == "cancel"), outcome
    assert CANCELLED in outcomes


async def serve(log: TaskLog, bus: Bus, over: asyncio.Event) -> None:
    """Run what comes, as a dispatcher does, at once; what has been pulled is run to its end."""
    slot, puller = Slot(GPU, 0, bus), Puller(bus)
    while not over.is_set():
        if ticket := await puller.pull(LANE, 0.25):
            await _run(Work(log, ticket, Seat(NOTHING, slot)))


async def _run(work: Work) -> None:
    await work.look()
    step = with_ticket(work.task, now=clock.now(), alive=True)
    if isinstance(step, Start) and await work.append(
        TaskStarted(attempt=step.attempt, backend=GPU, dispatcher="a")
    ):
        await work.append(TaskDone(attempt=step.attempt, artifacts=(), usage=Usage(run_s=0)))
    await work.ticket.ack()


def winner(event: object) -> str:
    """Name who wrote that end."""
    match event:
        case TaskCancelled(by=by):
            return by
        case TaskExpired():
            return "expire"
        case TaskFailed():
            return "fail"
        case _:
            return "finish"
