"""The loop of a dispatcher, with a simulated GPU, when what it knows of the lanes is wrong."""

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from schemas import registry
from schemas.ids import BackendId, TaskId
from schemas.registry import Backend
from schemas.requests import Kind
from schemas.subjects import BACKENDS, Lane
from services.bus.buckets import Bucket
from services.bus.streams import lane_depths
from services.bus.tickets import Puller, Ticket
from services.dispatcher import capped, depths
from services.dispatcher import main as dispatcher
from services.gpusim.model import Fault, Options, ProfileName
from services.process import background
from tests.api import Rig, beside, eventually, running, settings_for
from tests.gpu import Gpu
from tests.nats import NatsServer


@contextlib.asynccontextmanager
async def gpu(rig: Rig, name: str) -> AsyncIterator[Gpu]:
    """Run a simulated GPU that takes no time, and register it."""
    gpu = Gpu(rig.session, Options(profile=ProfileName.OPENAI, step_ms=0))
    backend = Backend(name=BackendId(name), url=gpu.url, kind=Kind.IMAGE)
    async with background(gpu.run()):
        await gpu.up()
        await Bucket(rig.bus, BACKENDS).replace(backend.name, registry.encode(backend), 0)
        yield gpu


async def done(rig: Rig, task_id: TaskId) -> None:
    """Wait until a task is done."""

    async def look() -> bool:
        return bool((await rig.ask("GET", f"/api/v1/tasks/{task_id}")).json["status"] == "DONE")

    await eventually(look)


async def test_a_lane_that_was_found_empty_by_mistake_is_soon_looked_at_again(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed: list[Lane] = []
    pull = Puller.pull

    async def late(self: Puller, lane: Lane, wait_s: float) -> Ticket | None:
        if not missed:  # as of a server that was too busy to answer in time
            missed.append(lane)
            return None
        return await pull(self, lane, wait_s)

    monkeypatch.setattr(Puller, "pull", late)
    monkeypatch.setattr(depths, "REFRESH_S", 3600.0)
    settings = settings_for(nats_server, tmp_path)
    async with running(settings) as rig, gpu(rig, "image-1"), beside(dispatcher.serve, settings):
        await done(rig, await rig.submit())
    assert len(missed) == 1


@pytest.mark.parametrize("late_s", [0.0, 0.06, 0.2])
async def test_a_task_is_tried_again_once_its_time_has_come_also_where_a_busy_server_is_late(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late_s: float
) -> None:
    give_back = Ticket.give_back

    async def early(self: Ticket, delay: timedelta = timedelta(0)) -> None:
        await give_back(self, delay)
        self.back_in = max(timedelta(0), delay - timedelta(seconds=late_s))

    monkeypatch.setattr(Ticket, "give_back", early)
    monkeypatch.setattr(depths, "REFRESH_S", 3600.0)
    settings = replace(settings_for(nats_server, tmp_path), retry_base_s=0.5)
    async with (
        running(settings) as rig,
        gpu(rig, "image-1") as bad,
        beside(dispatcher.serve, settings),
    ):
        await bad.script(Fault.HTTP500, count=2)
        await done(rig, await rig.submit())


async def test_a_tenant_at_its_cap_goes_on_when_one_of_its_tasks_has_ended(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depths, "REFRESH_S", 3600.0)
    monkeypatch.setattr(capped, "KEPT_S", 3600.0)
    settings = replace(settings_for(nats_server, tmp_path), tenant_running_limit=1)
    async with (
        running(settings) as rig,
        gpu(rig, "image-1") as one,
        gpu(rig, "image-2") as other,
        beside(dispatcher.serve, settings),
    ):
        for task_id in [await rig.submit() for _ in range(6)]:
            await done(rig, task_id)
        assert sum([(await each.stats()).jobs.received for each in (one, other)]) == 6


async def test_what_was_parked_for_a_backend_is_there_for_others_once_its_dispatcher_stops(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = replace(settings_for(nats_server, tmp_path), drain_grace_s=0.0)
    async with running(settings) as rig, gpu(rig, "image-1"), gpu(rig, "image-2") as busy:
        await busy.script(Fault.HANG)
        async with beside(dispatcher.serve, settings):
            _, *named = [await rig.submit(backend="image-2") for _ in range(4)]

            async def all_pulled() -> bool:
                depths = (await lane_depths(rig.bus)).values()
                return sum(depth.given for depth in depths) == 4

            await eventually(all_pulled)
            await done(rig, await rig.submit())
            assert (await busy.stats()).jobs.received == 1

        puller = Puller(rig.bus)
        left = {*named}
        while left:
            address = (await rig.tasklog.lookup(next(iter(left)))).address
            assert address is not None
            ticket = await puller.pull(address.lane, wait_s=10)
            assert ticket is not None, "they are given out before their ack_wait ends"
            left.discard(ticket.address.task_id)
