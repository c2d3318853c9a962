"""Where a waiting task stands: its place in line, when it should be done, and what holds it back."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from schemas import control, fleet, registry
from schemas import lease as leases
from schemas.control import Pause, pause_key
from schemas.errors import Code
from schemas.events import AttemptFailed, TaskError, TaskSubmitted
from schemas.fleet import Circuit, Condition, Health, Learned, health_key, learned_key
from schemas.ids import BackendId, TaskId
from schemas.lease import RELEASED, Lease
from schemas.readmodel import MOST_COUNTED
from schemas.registry import Backend, Wanted
from schemas.requests import Kind
from schemas.subjects import BACKENDS, CONTROL, FLEET, LEASES, Address, lease_key
from services import clock
from services.bus.buckets import Bucket
from services.scheduling.outlook import MOST
from tests.api import Json, Rig, eventually, running, settings_for
from tests.builders import LANE, image
from tests.nats import NatsServer

GPU = Backend(name=BackendId("image-1"), url="http://gpu:8080", kind=Kind.IMAGE, models=("sdxl",))
UNITS = 1024 * 1024 * 20 / 1_000_000
A_UNIT_S = 1.0
LEARNED = Learned(seconds={"sdxl": A_UNIT_S}, warm=("sdxl",))
RUNS_S = UNITS * A_UNIT_S


async def write(rig: Rig, bucket: str, key: str, value: bytes) -> None:
    opened = Bucket(rig.bus, bucket)
    assert await opened.replace(key, value, (await opened.get(key)).revision) is not None


async def equip(rig: Rig, backend: Backend = GPU, learned: Learned = LEARNED) -> None:
    """Put a backend into the registry, with what has been learned of it."""
    await write(rig, BACKENDS, backend.name, registry.encode(backend))
    await write(rig, FLEET, learned_key(backend.name), fleet.encode(learned))


async def busy(
    rig: Rig, *, rest_s: float, task_id: TaskId | None = None, tenant: str = "default"
) -> datetime:
    """Say that the GPU runs something for so long, and give the end of that."""
    end_at = clock.now() + timedelta(seconds=rest_s)
    lease = Lease(
        holder="dispatcher-7",
        task_id=task_id or clock.new_task_id(),
        attempt=1,
        tenant=tenant,
        since=clock.now(),
        expected_end_at=end_at,
    )
    await write(rig, LEASES, lease_key(GPU.name, 0), leases.encode(lease))
    return end_at


async def shown(rig: Rig, task_id: TaskId) -> Json:
    document: Json = (await rig.ask("GET", f"/api/v1/tasks/{task_id}")).json
    return document


async def stands(rig: Rig, task_id: TaskId, position: int | None, why: str, *, foretold: bool) -> Json:
    """Wait until a task stands so, and give the whole of its standing."""
    found: list[Json] = []

    async def so() -> bool:
        queue = (await shown(rig, task_id))["queue"]
        found[:] = [queue]
        known = queue is not None and queue["eta_at"] is not None
        return known is foretold and queue["position"] == position and queue["why"] == why

    try:
        await eventually(so, within_s=10)
    except TimeoutError:
        pytest.fail(f"it stands so: {found}")
    return found[0]


def seconds_from(start: datetime, queue: Json) -> float:
    return (datetime.fromisoformat(queue["eta_at"]) - start).total_seconds()


async def test_tasks_in_line_know_their_place_and_when_they_are_done(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await equip(rig)
        free_at = await busy(rig, rest_s=100)
        first, second = [await rig.submit() for _ in range(2)]
        later = await rig.submit(priority="low")
        urgent = await rig.submit(priority="high")
        found = [
            await stands(rig, task_id, position, "waiting_for_slot", foretold=True)
            for task_id, position in ((urgent, 1), (first, 1), (second, 2), (later, 1))
        ]
        assert all(queue["eta_at"].endswith(".000Z") for queue in found)
        early, *equals, late = [seconds_from(free_at, queue) for queue in found]
        # The two of normal priority are in the tenant's two lanes, of which either may go first.
        for turn, seconds in enumerate((early, *sorted(equals), late), start=1):
            assert -1 < seconds - turn * RUNS_S < 2, (turn, seconds)


async def test_a_task_that_a_lease_is_for_is_no_longer_in_line_and_others_have_their_turn(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    both = ("flux", "sdxl")
    learned = Learned(seconds=dict.fromkeys(both, A_UNIT_S), warm=both)
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await equip(rig, replace(GPU, models=both, keeps=2), learned)
        begun, others = await rig.submit(model="flux"), [await rig.submit(model="sdxl")]
        where = await lane_of(rig, begun)
        while await lane_of(rig, behind := await rig.submit(model="flux")) != where:
            others.append(behind)

        async def late(start: datetime, turn: int) -> bool:
            late_s = seconds_from(start, (await shown(rig, behind))["queue"])
            return abs(late_s - turn * RUNS_S) < 2

        await stands(rig, behind, len(others) + 2, "waiting_for_slot", foretold=True)
        # Until all of them have been seen to wait; who is seen only later would not come before it.
        await eventually(lambda: late(clock.now(), len(others) + 2))
        end_at = await busy(rig, rest_s=100, task_id=begun)
        await eventually(lambda: late(end_at, len(others) + 1))


async def lane_of(rig: Rig, task_id: TaskId) -> str:
    address = (await rig.tasklog.lookup(task_id)).address
    assert address is not None
    return address.lane.name


async def test_where_no_gpu_has_run_anything_nothing_is_foretold(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await equip(rig, learned=Learned())
        task_id = await rig.submit()
        await stands(rig, task_id, 1, "waiting_for_slot", foretold=False)


async def test_a_pause_holds_back_and_says_no_time(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await equip(rig)
        task_id = await rig.submit()
        pause = control.encode(Pause(at=clock.now(), by="operator"))
        await write(rig, CONTROL, pause_key("image"), pause)
        await stands(rig, task_id, 1, "paused", foretold=False)


@pytest.mark.parametrize(
    "health",
    [
        Health(condition=Condition.DOWN),
        Health(condition=Condition.MISCONFIGURED),
        Health(condition=Condition.STUCK),
        Health(condition=Condition.UP, circuit=Circuit.OPEN),
    ],
)
async def test_a_task_that_nobody_can_run_says_so(
    nats_server: NatsServer, tmp_path: Path, health: Health
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await equip(rig)
        task_id = await rig.submit()
        await stands(rig, task_id, 1, "waiting_for_slot", foretold=True)
        await write(rig, FLEET, health_key(GPU.name), fleet.encode(health))
        await stands(rig, task_id, 1, "no_backend", foretold=False)


@pytest.mark.parametrize(
    "backend",
    [
        replace(GPU, wanted=Wanted.DRAINING),
        replace(GPU, wanted=Wanted.OFF),
        replace(GPU, alive_until=clock.now() - timedelta(seconds=1)),
    ],
)
async def test_a_backend_that_is_out_of_use_is_none(
    nats_server: NatsServer, tmp_path: Path, backend: Backend
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await equip(rig, backend)
        await stands(rig, await rig.submit(), 1, "no_backend", foretold=False)


async def test_a_tenant_that_runs_all_it_may_waits_for_itself(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path, tenant_running_limit=1, trust_tenant_header=True)
    async with running(settings) as rig:
        await equip(rig, replace(GPU, slots=2))
        free_at = await busy(rig, rest_s=100, tenant="acme")
        body, whose = {"prompt": "a fox"}, {"taskfold-tenant": "acme"}
        reply = await rig.ask("POST", "/api/v1/image/async", json=body, headers=whose)
        held, other = TaskId(reply.json["task_id"]), await rig.submit()
        queue = await stands(rig, held, 1, "tenant_cap", foretold=True)
        assert -1 < seconds_from(free_at, queue) - RUNS_S < 1
        await stands(rig, other, 2, "waiting_for_slot", foretold=True)


async def test_a_task_between_two_attempts_keeps_its_place(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await equip(rig)
        task_id = await rig.submit()
        await rig.submit()
        await rig.start(task_id)
        retry_at = clock.now() + timedelta(seconds=500)
        boom = TaskError(code="boom", message="it broke")
        await rig.append(
            task_id, AttemptFailed(attempt=1, error=boom, counted=1, attempts=(), retry_at=retry_at)
        )
        queue = await stands(rig, task_id, 1, "retry_delay", foretold=True)
        assert -1 < seconds_from(retry_at, queue) - RUNS_S < 1


async def test_a_task_that_is_not_in_line_has_no_place_and_a_time_all_the_same(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await equip(rig)
        delayed, task_id = await rig.submit(delay_s=3600), await rig.submit()
        queue = await stands(rig, delayed, None, "scheduled", foretold=True)
        start_at = datetime.fromisoformat((await shown(rig, delayed))["not_before"])
        assert -1 < seconds_from(start_at, queue) - RUNS_S < 1

        await rig.start(task_id)
        queue = await stands(rig, task_id, None, "running", foretold=True)  # by what has been learned
        started_at = datetime.fromisoformat((await shown(rig, task_id))["started_at"])
        assert -1 < seconds_from(started_at, queue) - RUNS_S < 1
        end_at = await busy(rig, rest_s=77, task_id=task_id)  # by the lease, once there is one

        async def by_the_lease() -> bool:
            standing = (await shown(rig, task_id))["queue"]
            return -1 < seconds_from(end_at, standing) < 1

        await eventually(by_the_lease)
        await rig.finish(task_id)

        async def over() -> bool:
            document = await shown(rig, task_id)
            return document["status"] == "DONE" and document["queue"] is None

        await eventually(over)


async def test_what_should_have_ended_ends_later_by_half_of_what_it_is_late(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        await rig.start(task_id)
        await busy(rig, rest_s=-60, task_id=task_id)
        before = clock.now()
        queue = await stands(rig, task_id, None, "running", foretold=True)
        assert 29 < seconds_from(before, queue) < 35


async def test_a_list_shows_what_a_get_shows(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await equip(rig)
        await busy(rig, rest_s=100)
        ids = [await rig.submit() for _ in range(3)]
        await stands(rig, ids[-1], 3, "waiting_for_slot", foretold=True)
        listed = (await rig.ask("GET", "/api/v1/tasks")).json["tasks"]
        assert [task["queue"]["position"] for task in listed] == [3, 2, 1]
        assert listed == [await shown(rig, task_id) for task_id in reversed(ids)]


async def test_without_a_read_model_nobody_knows_the_line(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        task_id = await rig.submit()
        assert (await shown(rig, task_id))["queue"] == {
            "position": None,
            "eta_at": None,
            "why": "waiting_for_slot",
        }


async def test_a_change_of_place_is_news_and_a_change_of_time_alone_is_not(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await equip(rig)
        await busy(rig, rest_s=100)
        first, second = [await rig.submit() for _ in range(2)]
        path = f"/api/v1/tasks/{second}"
        await stands(rig, second, 2, "waiting_for_slot", foretold=True)
        seen = await rig.ask("GET", path)
        known = {"if-none-match": seen.headers["etag"]}
        assert (await rig.ask("GET", path, headers=known)).status == 304

        await busy(rig, rest_s=200)

        async def later() -> bool:
            now: Json = (await shown(rig, second))["queue"]
            return bool(now["eta_at"] > seen.json["queue"]["eta_at"])

        await eventually(later)
        assert (await rig.ask("GET", path, headers=known)).status == 200
        waiting = asyncio.ensure_future(rig.ask("GET", f"{path}?wait=30", headers=known))
        await stands(rig, second, 2, "waiting_for_slot", foretold=True)
        assert not waiting.done()
        await rig.ask("DELETE", f"/api/v1/tasks/{first}")
        assert (await waiting).json["queue"]["position"] == 1


async def test_a_queue_says_how_long_a_task_takes_and_how_true_that_was(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:

        async def queue() -> Json:
            queues = (await rig.ask("GET", "/api/v1/queues")).json["queues"]
            found: Json = next(one for one in queues if one["model"] == "any")
            return found

        await equip(rig)
        task_id = await rig.submit()
        await stands(rig, task_id, 1, "waiting_for_slot", foretold=True)
        shown_queue = await queue()
        assert shown_queue["eta_s"] == pytest.approx(2 * RUNS_S, abs=1)
        assert shown_queue["eta_error"] is None
        await rig.start(task_id)
        await rig.finish(task_id)

        async def measured() -> bool:
            return (await queue())["eta_error"] is not None

        await eventually(measured)
        error = (await queue())["eta_error"]
        assert error["tasks"] == 1
        assert error["median"] == error["p90"] > 1  # it took a moment where 21 seconds were foretold


async def test_what_is_refused_says_when_there_should_be_room(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path, queue_limit=1)) as rig:

        async def refused() -> str:
            reply = await rig.ask("POST", "/api/v1/image/async", json={"prompt": "a fox"})
            assert reply.refusal() == (503, Code.QUEUE_FULL, None)
            return str(reply.headers["retry-after"])

        task_id = await rig.submit()
        await stands(rig, task_id, 1, "no_backend", foretold=False)
        assert await refused() == "5"
        await equip(rig)
        await busy(rig, rest_s=30)
        await stands(rig, task_id, 1, "waiting_for_slot", foretold=True)

        async def soon() -> bool:
            return 20 <= int(await refused()) <= 31

        await eventually(soon)
        await busy(rig, rest_s=3000)

        async def at_the_latest() -> bool:
            return await refused() == "60"

        await eventually(at_the_latest)
        await write(rig, LEASES, lease_key(GPU.name, 0), leases.encode(RELEASED))

        async def at_once() -> bool:
            return await refused() == "1"

        await eventually(at_once)


async def test_the_place_in_a_long_line_is_found_without_counting_it(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await equip(rig)
        ids = [clock.new_task_id() for _ in range(MOST + 20)]
        for task_id in ids:
            event = TaskSubmitted(submission=image(deadline=None, start_deadline=None))
            await rig.tasklog.append(Address(LANE, task_id), event, expected=0, patience_s=5)
        far = await stands(rig, ids[-1], len(ids), "waiting_for_slot", foretold=True)
        near_marks = [n * MOST_COUNTED + step for n in (1, 2) for step in (-1, 0, 1, 2)]
        for number in (1, *near_marks, MOST, MOST + 1):
            await stands(rig, ids[number - 1], number, "waiting_for_slot", foretold=True)
        near = await stands(rig, ids[0], 1, "waiting_for_slot", foretold=True)
        assert seconds_from(datetime.fromisoformat(near["eta_at"]), far) == pytest.approx(
            (len(ids) - 1) * RUNS_S, rel=0.05
        )
