"""Appends and lookups on a real server: one winner, known outcomes, delayed starts."""

import asyncio
from datetime import timedelta

import pytest
from msgspec.structs import replace

from schemas.events import TaskCancelled, TaskDone, TaskEvent, TaskStarted, TaskSubmitted, Usage
from schemas.ids import BackendId
from schemas.requests import ImageRequest, ImageSubmission
from schemas.subjects import Address, Lane
from schemas.task import Status
from services import clock
from services.bus.connection import Bus
from services.bus.streams import ensure_stream, stream_info
from services.bus.tasklog import Beginning, LostRaceError, TaskLog
from services.init.main import prepare
from services.settings import Settings
from tests.cluster import eventually
from tests.nats import NatsServer

LANE = Lane("image", "any", "normal", 3)
SUBMITTED = TaskSubmitted(submission=ImageSubmission(request=ImageRequest(prompt="a fox", seed=1)))
STARTED = TaskStarted(attempt=1, backend=BackendId("image-1"), dispatcher="d")


@pytest.fixture
async def log(bus: Bus) -> TaskLog:
    await prepare(bus, Settings(artifact_gib=1))
    return TaskLog(bus, "/test", clock.now, clock.new_event_id)


def address() -> Address:
    return Address(LANE, clock.new_task_id())


async def test_of_racing_appends_exactly_one_wins_and_the_others_see_it(log: TaskLog) -> None:
    where = address()
    submitted = await log.append(where, SUBMITTED, expected=0, patience_s=2)
    events: list[TaskEvent] = [STARTED, TaskCancelled(by="user")] * 8

    outcomes = await asyncio.gather(
        *(log.append(where, event, expected=submitted, patience_s=2) for event in events),
        return_exceptions=True,
    )

    winners = [outcome for outcome in outcomes if isinstance(outcome, int)]
    losers = [outcome for outcome in outcomes if isinstance(outcome, LostRaceError)]
    assert len(winners) == 1
    assert len(losers) == len(events) - 1
    assert {loser.found.last for loser in losers} == {winners[0]}


async def test_an_id_is_taken_whatever_lane_it_comes_with(log: TaskLog) -> None:
    where = address()
    elsewhere = Address(Lane("image", "qwen-image", "high", 1), where.task_id)
    await log.append(where, SUBMITTED, expected=0, patience_s=2, any_lane=True)
    with pytest.raises(LostRaceError) as lost:
        await log.append(elsewhere, SUBMITTED, expected=0, patience_s=2, any_lane=True)
    assert lost.value.found.address == where


async def test_a_lookup_folds_the_state_and_knows_what_to_expect_next(log: TaskLog) -> None:
    where = address()
    submitted = await log.append(where, SUBMITTED, expected=0, patience_s=2)
    started = await log.append(where, STARTED, expected=submitted, patience_s=2)
    done = TaskDone(attempt=1, artifacts=(), usage=Usage(run_s=1))
    last = await log.append(where, done, expected=started, patience_s=2)

    by_address, by_id = await log.lookup(where.task_id, where), await log.lookup(where.task_id)

    assert by_address.task.status is Status.DONE
    assert by_address.last == last
    assert by_id == by_address
    nothing = await log.lookup(clock.new_task_id())
    assert (nothing.task.status, nothing.last, nothing.address) == (Status.ABSENT, 0, None)


async def test_a_schedule_and_its_event_are_stored_together_and_fire(log: TaskLog, bus: Bus) -> None:
    where = address()
    soon = clock.now() + timedelta(seconds=1)
    delayed = Beginning(where, replace(SUBMITTED.submission, not_before=soon))
    [sequence] = await log.begin([delayed], patience_s=2)

    found = await log.lookup(where.task_id, where)
    assert (found.task.status, found.last) == (Status.SCHEDULED, sequence)
    with pytest.raises(LostRaceError):
        await log.begin([delayed], patience_s=2)
    assert (await stream_info(bus, "TASKS")).last == sequence + 1

    async def fired() -> bool:
        return (await log.lookup(where.task_id, where)).task.status is Status.QUEUED

    await eventually(fired, "the schedule has fired")


async def test_tasks_that_begin_together_are_all_stored_or_none(log: TaskLog, bus: Bus) -> None:
    later = replace(SUBMITTED.submission, not_before=clock.now() + timedelta(hours=1))
    tasks = [Beginning(address(), one) for one in (SUBMITTED.submission, later, SUBMITTED.submission)]
    await log.append(tasks[2].address, SUBMITTED, expected=0, patience_s=2)
    with pytest.raises(LostRaceError):
        await log.begin(tasks, patience_s=2)
    assert (await stream_info(bus, "TASKS")).last == 1

    assert await log.begin([*tasks[:2], Beginning(address(), later)], patience_s=2) == [2, 3, 5]
    assert (await stream_info(bus, "TASKS")).last == 6
    found = [await log.lookup(task.address.task_id) for task in tasks]
    assert [one.task.status for one in found] == [Status.QUEUED, Status.SCHEDULED, Status.QUEUED]


async def test_init_run_again_changes_nothing_and_says_so(
    bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(
        artifact_gib=1, image_gen_urls={"1": "http://127.0.0.1:9", "2": "http://127.0.0.1:10"}
    )
    await prepare(bus, settings)
    assert capsys.readouterr().out.count("created") == 7
    await prepare(bus, settings)
    assert capsys.readouterr().out == ""
    await prepare(
        bus, Settings(artifact_gib=1, image_gen_urls={"1": "http://127.0.0.1:9"}, max_age_days=20)
    )
    said = capsys.readouterr().out
    assert "changed TASKS: max_age" in said
    assert "retired backend image-2" in said
    await prepare(bus, settings)
    assert "changed backend image-2" in capsys.readouterr().out


async def test_streams_are_made_once_by_processes_that_start_together(
    bus: Bus, nats_server: NatsServer
) -> None:
    other = Bus(nats_server.url, "other")
    await other.connect()
    wanted = {"name": "ONCE", "subjects": ["once.>"], "storage": "file"}
    said = await asyncio.gather(*(ensure_stream(b, wanted) for b in (bus, other) for _ in range(4)))
    assert all(line in (None, "created ONCE") for line in said)
    assert "created ONCE" in said
    await other.close()
