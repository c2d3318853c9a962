"""A slot while the world moves at the worst moment: it is not used again before its GPU is free."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from schemas.errors import UnavailableError
from schemas.events import TaskAttached, TaskCancelled, TaskStarted, TaskSubmitted
from schemas.ids import ArtifactId, BackendId, TaskId, artifact_id
from schemas.lease import Claim, Lease
from schemas.registry import Backend
from schemas.requests import ImageSubmission, Kind
from schemas.subjects import Address, Lane, lease_key
from schemas.task import Status
from services import clock
from services.artifacts import ArtifactInfo, ArtifactStore
from services.bus.connection import Bus
from services.bus.tasklog import Found, TaskLog
from services.dispatcher import execution
from services.dispatcher.desk import Desk, Outcome
from services.dispatcher.execution import Execution
from services.dispatcher.fleet import Fleet
from services.dispatcher.instances import Instance, Seat
from services.dispatcher.policies.health import Limits
from services.dispatcher.recording import Recorder
from services.dispatcher.registry import Registry
from services.dispatcher.seating import Seating
from services.init.main import prepare
from services.leases import Held, Leases
from services.process import background
from services.settings import Settings
from tests.builders import picture
from tests.cluster import eventually
from tests.fakes import HOLD, FakeAdapter
from tests.nats import NatsServer

SETTINGS = Settings(artifact_gib=1, unknown_run_s=600)
GPU = Backend(name=BackendId("image-1"), url="http://127.0.0.1:9", kind=Kind.IMAGE)
KEY = lease_key(GPU.name, 0)
LANE = Lane("image", "any", "normal", 0)


class RacingLog(TaskLog):
    """A log in which the next look is out of date by the time that it is answered."""

    cancels = False

    async def lookup(self, task_id: TaskId, address: Address | None = None) -> Found:
        found = await super().lookup(task_id, address)
        if self.cancels and found.address is not None:
            self.cancels = False
            cancelled = TaskCancelled(by="user")
            await self.append(found.address, cancelled, expected=found.last, patience_s=5)
        return found


class FaultyLeases(Leases):
    """Leases with a fault of ours in the middle of an attempt."""

    async def put(self, key: str, lease: Lease, revision: int) -> int | None:
        if lease.remote_id is not None:
            raise RuntimeError("a fault of ours")
        return await super().put(key, lease, revision)


class OvertakenLeases(Leases):
    """Leases that somebody else is always faster to take."""

    async def take(self, key: str, lease: Lease) -> Held | None:  # noqa: ARG002 - whatever it is for
        return None


class AskedAdapter(FakeAdapter):
    """Notes that it was asked whether the GPU is idle."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def idle(self, remote_id: str | None, task_id: TaskId | None = None) -> bool | None:  # noqa: ARG002 - the port's
        self.asked.set()
        call = self.begun.get(remote_id or "", self.calls[-1] if self.calls else None)
        return call is None or call.ended.is_set()


class GatedStore(ArtifactStore):
    """A store that takes its time; ``gates`` let through what is stored, one result each, in that order."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.gates: list[asyncio.Event] = []
        self.asked: asyncio.Queue[ArtifactId] = asyncio.Queue()

    async def put(
        self, artifact_id: ArtifactId, content: AsyncIterator[bytes], **more: Any
    ) -> ArtifactInfo:  # Any: passed on
        self.asked.put_nowait(artifact_id)
        if self.gates:
            await self.gates.pop(0).wait()
        return await super().put(artifact_id, content, **more)


class Bench:
    """One slot of one GPU, with the desk that serves it."""

    def __init__(self, bus: Bus, http: aiohttp.ClientSession, leases: Leases) -> None:
        self.leases = leases
        self.log = RacingLog(bus, "/test", clock.now, clock.new_event_id)
        self.adapter = AskedAdapter()
        artifacts, fleet = GatedStore(bus), Fleet(bus, leases.holder)
        self.store = artifacts
        registry = Registry(bus, http, SETTINGS, fleet, leases)
        recorder = Recorder(artifacts, fleet, SETTINGS)
        attempts = Execution(bus, artifacts, leases, registry, fleet, recorder, SETTINGS)
        self.desk = Desk(self.log, leases, registry, attempts, recorder)
        self.seating = Seating(leases, registry, SETTINGS)
        self.instance = Instance(GPU, http, bus, fleet, Limits())
        self.instance.adapter = self.adapter
        [self.slot] = self.instance.slots

    async def running(self) -> tuple[TaskId, asyncio.Task[Outcome], Seat]:
        """Submit a task and run it on the slot, which is leased first; its id, its end, its seat."""
        where, _ = await self.submitted()
        seat = Seat(self.instance, self.slot)
        assert await self.seating.lease(self.slot)
        ticket = await self.slot.puller.pull(where.lane, 1)
        assert ticket is not None
        return where.task_id, asyncio.create_task(self.desk.run(ticket, seat)), seat

    async def storing(self, task_id: TaskId) -> None:
        """Wait until the result of a task is about to be stored."""
        async with asyncio.timeout(30):
            assert await self.store.asked.get() == artifact_id(task_id, 1, 0)

    async def submitted(self) -> tuple[Address, int]:
        where = Address(LANE, clock.new_task_id())
        event = TaskSubmitted(submission=ImageSubmission(request=picture()))
        return where, await self.log.append(where, event, expected=0, patience_s=5)

    async def begun(self) -> Lease:
        """Leave a running attempt in the log, as another dispatcher would; give its lease."""
        where, last = await self.submitted()
        started = TaskStarted(attempt=1, backend=GPU.name, dispatcher="gone")
        last = await self.log.append(where, started, expected=last, patience_s=5)
        attached = TaskAttached(attempt=1, dispatcher="gone", remote_id="fake-1")
        await self.log.append(where, attached, expected=last, patience_s=5)
        return Lease(holder="gone", task_id=where.task_id, attempt=1, since=clock.now(), remote_id="fake-1")


@contextlib.asynccontextmanager
async def bench(
    bus: Bus, kind: type[Leases] = Leases, lease_s: float = 30, name: str = "test"
) -> AsyncIterator[Bench]:
    await prepare(bus, SETTINGS)
    leases = kind(bus, name, lease_s)
    async with aiohttp.ClientSession() as http, background(leases.follow()):
        await leases.known.wait()
        yield Bench(bus, http, leases)


async def test_who_is_alone_has_slot_and_ticket(bus: Bus) -> None:
    async with bench(bus) as it:
        where, _ = await it.submitted()
        assert it.leases.alone
        ticket = await it.seating.pull(it.slot, where.lane, 1)

        assert ticket is not None
        assert ticket.address == where
        assert it.slot.holds() is not None


async def test_a_ticket_for_a_slot_that_another_was_faster_to_take_is_there_for_others_at_once(
    bus: Bus,
) -> None:
    async with bench(bus, OvertakenLeases) as it:
        where, _ = await it.submitted()
        assert it.leases.alone
        assert await it.seating.pull(it.slot, where.lane, 1) is None

        ticket = await it.slot.puller.pull(where.lane, 1)
        assert ticket is not None
        assert ticket.address == where


async def test_who_has_met_another_pulls_nothing_before_it_has_the_lease(bus: Bus) -> None:
    async with bench(bus, OvertakenLeases) as it, bench(bus, name="other") as other:
        where, _ = await it.submitted()
        assert await other.seating.lease(other.slot)

        async def met() -> bool:
            return not it.leases.alone

        await eventually(met, "it has seen the other's lease")
        assert await it.seating.pull(it.slot, where.lane, 1) is None
        ticket = await other.slot.puller.pull(where.lane, 0)
        assert ticket is not None
        assert ticket.fresh, "it has been in nobody's hands"


async def test_who_loses_the_race_for_an_attempt_has_not_gone_on_with_it_and_waits_for_its_gpu(
    bus: Bus,
) -> None:
    async with bench(bus) as it:
        left = await it.begun()
        it.slot.held = await it.leases.take(KEY, left)
        it.log.cancels = True

        assert not await it.desk.go_on(left, Seat(it.instance, it.slot))
        assert not it.adapter.calls


async def test_a_fault_of_ours_in_the_middle_of_an_attempt_frees_no_gpu(bus: Bus) -> None:
    async with bench(bus, FaultyLeases) as it:
        where, _ = await it.submitted()
        it.slot.held = await it.leases.take(KEY, Lease(since=clock.now()))
        it.adapter.will(HOLD)
        ticket = await it.slot.puller.pull(where.lane, 1)
        assert ticket is not None
        running = asyncio.create_task(it.desk.run(ticket, Seat(it.instance, it.slot)))
        asked = asyncio.create_task(it.adapter.asked.wait())
        await asyncio.wait((running, asked), return_when=asyncio.FIRST_COMPLETED)

        assert not running.done(), "the slot is free while the GPU works"
        it.adapter.calls[0].release()
        await running
        found = await it.log.lookup(where.task_id)
        assert found.task.attempts[0].error is not None
        assert found.task.attempts[0].error.code == "internal"


async def test_the_next_task_runs_while_a_result_is_recorded_and_both_are_in_good_hands(bus: Bus) -> None:
    async with bench(bus) as it, bench(bus, name="other") as other:
        gate = asyncio.Event()
        it.store.gates = [gate]
        first, recorded, seat = await it.running()
        await it.storing(first)

        # Not idle: its lease would be given up, and the first task be taken for lost.
        assert (seat.kept, it.slot.occupied, it.slot.idle) == (False, False, False)
        it.adapter.will(HOLD)
        second, running, seat = await it.running()

        async def said() -> bool:
            return other.leases.working_on(first) and other.leases.working_on(second)

        await eventually(said, "the lease names both")
        gate.set()
        assert await recorded is Outcome.SETTLED
        assert (await it.log.lookup(first)).task.status is Status.DONE
        assert (seat.kept, it.slot.occupied) == (True, True), "the first has left what is the second's"
        it.adapter.calls[1].release()
        await running
        assert it.slot.idle


async def test_a_task_that_follows_at_once_begins_before_the_result_of_the_one_before_is_recorded(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "HEAD_START_S", 3600)
    async with bench(bus) as it:
        it.adapter.will(HOLD, HOLD)
        _, recorded, _ = await it.running()
        call = await it.adapter.started.get()

        async def follow() -> Seat:
            while it.slot.occupied:
                it.leases.changed.clear()
                await it.leases.changed.wait()
            return Seat(it.instance, it.slot)

        following = asyncio.create_task(follow())
        await asyncio.sleep(0)  # it waits now, as the loop does
        call.release()
        await following
        _, running, _ = await it.running()
        await it.adapter.started.get()

        assert it.store.asked.empty()
        for task in (recorded, running):
            task.cancel()
        await asyncio.wait((recorded, running))


async def test_a_result_that_nothing_follows_is_recorded_at_once(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "HEAD_START_S", 3600)
    async with bench(bus) as it:
        task_id, recorded, _ = await it.running()
        await recorded
        assert (await it.log.lookup(task_id)).task.status is Status.DONE


async def test_a_slot_records_one_result_at_a_time(bus: Bus) -> None:
    async with bench(bus) as it:
        gates = it.store.gates = [asyncio.Event(), asyncio.Event()]
        letting_go = list(gates)
        first, recorded, _ = await it.running()
        await it.storing(first)
        second, running, seat = await it.running()

        async def over() -> bool:
            return len(it.adapter.calls) == 2 and it.adapter.calls[1].ended.is_set()

        await eventually(over, "the second call is over")
        assert (seat.kept, recorded.done()) == (True, False), "it waits until the first is recorded"
        letting_go[0].set()
        await recorded
        await it.storing(second)
        assert (seat.kept, recorded.done()) == (False, True)
        letting_go[1].set()
        await running


async def test_what_a_lease_is_to_say_is_said_once_nats_is_back(bus: Bus, nats_server: NatsServer) -> None:
    async with bench(bus) as it:
        held = await it.leases.take(KEY, Lease(since=clock.now()))
        assert held is not None
        nats_server.kill()
        assert await held.write(replace(held.lease, remote_id="job-1"))
        nats_server.start()

        async def renewed() -> bool:
            await held.renew()
            known = it.leases.sighting(KEY)
            return known is not None and known.lease.remote_id == "job-1"

        await eventually(renewed, "the next renewal says it", 30)


async def test_a_lease_that_is_no_longer_trusted_is_not_kept_by_who_cannot_have_it_anew(bus: Bus) -> None:
    async with bench(bus, lease_s=2) as it:
        held = it.slot.held = await it.leases.take(KEY, Lease(since=clock.now()))
        assert held is not None

        async def doubtful() -> bool:
            return not held.valid and it.leases.claim(KEY) is Claim.HELD

        await eventually(doubtful, "too old to be trusted, too young to be taken")
        assert not await it.seating.lease(it.slot)

        async def left_alone() -> bool:
            return asyncio.get_running_loop().time() - held.renewed_at > 2 * it.leases.lease_s

        async with background(it.leases.keep()):
            await eventually(left_alone, "nobody renews it", 30)
        assert it.leases.claim(KEY) is Claim.STALE


async def test_who_holds_a_lease_says_so_again_to_a_server_that_has_forgotten_it(
    bus: Bus, nats_server: NatsServer
) -> None:
    async with bench(bus, lease_s=3) as it:
        async with forgotten(bus, nats_server):
            held = await settled(it.leases)
        assert await held.write(held.lease)

        async with bench(bus, name="other") as other:
            assert other.leases.claim(KEY) is Claim.HELD


async def test_nothing_is_taken_after_an_outage_before_its_holder_can_have_said_so_again(
    bus: Bus, nats_server: NatsServer
) -> None:
    async with bench(bus) as it:
        async with forgotten(bus, nats_server):
            await it.leases.put(KEY, Lease(holder="another"), 0)
        assert it.leases.claim(KEY) is Claim.HELD
        assert it.leases.claim(lease_key(GPU.name, 1)) is Claim.HELD


async def test_no_slot_is_lost_by_a_lease_that_the_server_has_forgotten(
    bus: Bus, nats_server: NatsServer
) -> None:
    async with bench(bus, lease_s=1) as it:
        async with forgotten(bus, nats_server):
            held = await settled(it.leases)
            await held.write(held.lease)
            it.leases.forget(held)

        async def taken() -> bool:
            return await it.leases.take(KEY, Lease(since=clock.now())) is not None

        await eventually(taken, "it is taken again", 30)


async def test_a_lease_that_is_renewed_at_a_revision_used_before_is_not_taken_for_stale(
    bus: Bus, nats_server: NatsServer
) -> None:
    async with bench(bus, lease_s=1) as it, bench(bus, lease_s=1, name="other") as other:
        async with forgotten(bus, nats_server):
            held = await settled(it.leases)
            await held.write(held.lease)

            async def known() -> bool:
                seen = other.leases.sighting(KEY)
                return seen is not None and seen.revision == held.revision

            await eventually(known, "the other knows that revision", 30)
            forgotten_at = held.revision
        await held.write(held.lease)
        assert held.revision < forgotten_at

        async def up_to_date() -> bool:
            seen = other.leases.sighting(KEY)
            return seen is not None and seen.revision == held.revision

        await eventually(up_to_date, "the other follows", 30)


async def settled(leases: Leases) -> Held:
    """Take the lease, as soon as that may be done after an outage."""

    async def take() -> Held | None:
        return await leases.take(KEY, Lease(since=clock.now()))

    return await eventually(take, "it is taken", 30)


@contextlib.asynccontextmanager
async def forgotten(bus: Bus, server: NatsServer) -> AsyncIterator[None]:
    """Have the server forget what is written in the block, as if it had been told just before a kill."""
    store, kept = server.folder / "jetstream", server.folder / "kept"
    server.kill()
    shutil.copytree(store, kept)
    server.start()
    await reconnected(bus)
    yield
    server.kill()
    shutil.rmtree(store)
    kept.rename(store)
    server.start()
    await reconnected(bus)


async def reconnected(bus: Bus) -> None:
    async def answers() -> bool:
        with contextlib.suppress(UnavailableError):
            return bool(await bus.api("STREAM.INFO.KV_LEASES", timeout_s=0.5))
        return False

    await eventually(answers, "the server is back", 30)
