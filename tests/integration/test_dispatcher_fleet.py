"""What dispatchers tell one another of the GPUs and their leases, over a real nats-server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from schemas.fleet import Condition, Health
from schemas.ids import BackendId
from schemas.lease import Claim, Lease
from services import clock
from services.bus.connection import Bus
from services.dispatcher.fleet import Fleet
from services.init.main import prepare
from services.leases import Held, Leases
from services.process import background
from services.settings import Settings
from tests.builders import OTHER, TASK
from tests.cluster import eventually

GPU = BackendId("image-1")


@pytest.fixture(autouse=True)
async def _prepared(bus: Bus) -> None:
    await prepare(bus, Settings(artifact_gib=1))


@contextlib.asynccontextmanager
async def fleet(bus: Bus, name: str) -> AsyncIterator[Fleet]:
    known = Fleet(bus, name)
    async with background(known.follow(), known.keep()):
        yield known


@contextlib.asynccontextmanager
async def leases(bus: Bus, name: str, lease_s: float = 60) -> AsyncIterator[Leases]:
    known = Leases(bus, name, lease_s)
    async with background(known.follow()):
        await known.known.wait()
        yield known


async def test_what_one_dispatcher_learns_another_knows(bus: Bus) -> None:
    async with fleet(bus, "a") as first, fleet(bus, "b") as second:
        first.starting(GPU, "flux", 2)
        first.ran(GPU, "flux", 10, 20, cold=False, keeps=2)

        async def known() -> bool:
            return second.learned(GPU).seconds == {"flux": 2} and second.learned(GPU).warm == ("flux",)

        await eventually(known, "the second knows")
        second.ran(GPU, "flux", 10, 30, cold=False, keeps=2)

        async def moved() -> bool:
            return first.learned(GPU).seconds == {"flux": pytest.approx(2.3)}

        await eventually(moved, "the first knows what the second made of it")


async def test_a_dispatcher_hears_of_health_from_the_others_and_not_from_itself(bus: Bus) -> None:
    async with fleet(bus, "a") as first, fleet(bus, "b") as second:
        heard: list[tuple[str, BackendId, Health]] = []
        first.on_health = lambda name, health: heard.append(("a", name, health))
        second.on_health = lambda name, health: heard.append(("b", name, health))
        told = Health(condition=Condition.FAILING, reason="CUDA error", by="a")
        first.tell(GPU, told)

        async def both_have_it() -> bool:
            return first.health(GPU) == told == second.health(GPU)

        await eventually(both_have_it, "both have it")
        assert heard == [("b", GPU, told)]


async def test_word_that_was_overtaken_before_it_was_written_does_not_stand(bus: Bus) -> None:
    async with fleet(bus, "a") as first, fleet(bus, "b") as second:
        up, down = (Health(condition=c, by="a") for c in (Condition.UP, Condition.DOWN))
        first.tell(GPU, up)

        async def known() -> bool:
            return second.health(GPU) == up

        await eventually(known, "the second knows")
        first.tell(GPU, down)
        assert first.health(GPU) == down, "what is about to be said counts"
        first.tell(GPU, up)
        first.tell(BackendId("image-2"), down)

        async def told() -> bool:
            return second.health(BackendId("image-2")) == down

        await eventually(told, "what came later has been written")
        assert second.health(GPU) == up


async def test_of_a_tenant_s_attempts_that_begin_at_once_each_has_its_rank_whoever_asks(bus: Bus) -> None:
    async with leases(bus, "a") as first, leases(bus, "b") as second:

        async def begin(owner: Leases, slot: int) -> tuple[Leases, Held]:
            held = await owner.take(f"image-{slot}.0", Lease(since=clock.now()))
            assert held is not None
            return owner, held

        begun = [await begin((first, second)[n % 2], n) for n in range(8)]
        alone = await begin(first, 8)

        async def rank(owner: Leases, held: Held, tenant: str) -> int:
            await held.write(Lease(holder=owner.holder, task_id=TASK, attempt=1, tenant=tenant))
            return await owner.rank(held, tenant)

        ranks = await asyncio.gather(*(rank(owner, held, "hog") for owner, held in begun))

        assert sorted(ranks) == list(range(8))
        assert await rank(*alone, "small") == 0
        # A renewal changes nothing about who came first.
        for _, held in begun:
            await held.renew()
        again = await asyncio.gather(*(owner.rank(held, "hog") for owner, held in begun))
        assert again == ranks


async def test_what_one_leaves_another_may_take_at_once(bus: Bus) -> None:
    async with leases(bus, "a") as first, leases(bus, "b") as second:
        held = await first.take("image-1.0", Lease(since=clock.now()))
        assert held is not None
        await held.write(Lease(holder="a", task_id=OTHER, attempt=2, remote_id="job-7"))

        async def held_elsewhere() -> bool:
            return second.working_on(OTHER)

        await eventually(held_elsewhere, "the second sees it")
        await held.leave()

        async def left() -> bool:
            return second.left(OTHER) == "image-1.0"

        await eventually(left, "it is left behind")
        assert second.claim("image-1.0") is Claim.STALE
        assert [lease.task_id for _, lease in second.running(GPU)] == [OTHER]
        sighting = second.sighting("image-1.0")
        assert sighting is not None
        taken = await second.take("image-1.0", sighting.lease)
        assert taken is not None
        assert (taken.lease.holder, taken.lease.remote_id) == ("b", "job-7")
        assert second.working_on(OTHER)
