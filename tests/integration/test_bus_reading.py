"""Tickets, followers, buckets, leases and artifacts on a real server."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from schemas.errors import Code, DisconnectedError, RejectedError
from schemas.events import TaskSubmitted
from schemas.ids import ArtifactId
from schemas.lease import Claim, Lease
from schemas.requests import ImageRequest, ImageSubmission
from schemas.subjects import BACKENDS, LEASES, TASKS, Address, Lane
from services import clock
from services.artifacts import CHUNK, ArtifactStore, IncompleteError
from services.bus.buckets import Bucket, Entry
from services.bus.connection import Bus, Msg
from services.bus.follow import Follower
from services.bus.followed import Followed
from services.bus.streams import ensure_lane, lane_depths
from services.bus.tasklog import TaskLog
from services.bus.tickets import Puller
from services.init.main import prepare
from services.leases import Leases
from services.process import background
from services.settings import Settings
from tests.cluster import eventually
from tests.nats import NatsServer

LANE = Lane("image", "qwen-image", "normal", 3)
SUBMITTED = TaskSubmitted(submission=ImageSubmission(request=ImageRequest(prompt="a fox", seed=1)))


@pytest.fixture
async def log(bus: Bus) -> TaskLog:
    await prepare(bus, Settings(artifact_gib=1))
    return TaskLog(bus, "/test", clock.now, clock.new_event_id)


async def submitted(log: TaskLog) -> Address:
    where = Address(LANE, clock.new_task_id())
    await log.append(where, SUBMITTED, expected=0, patience_s=2)
    return where


async def test_a_pull_creates_its_lane_and_finds_what_came_before(log: TaskLog, bus: Bus) -> None:
    where = await submitted(log)
    puller = Puller(bus)
    ticket = await puller.pull(LANE, 1)
    assert ticket is not None
    assert (ticket.address, ticket.fresh) == (where, True)
    assert await puller.pull(LANE, 0) is None
    assert (await lane_depths(bus))[LANE].given == 1
    await ticket.give_back(timedelta(milliseconds=200))
    again = await puller.pull(LANE, 2)
    assert again is not None
    assert not again.fresh
    await again.ack()

    async def empty() -> bool:
        return (await lane_depths(bus))[LANE].given == 0

    await eventually(empty, "the ticket is acked")


async def test_a_ticket_whose_puller_was_cancelled_is_given_back_at_once(log: TaskLog, bus: Bus) -> None:
    await ensure_lane(bus, LANE)
    gone, puller = Puller(bus), Puller(bus)
    pulling = asyncio.create_task(gone.pull(LANE, 5))

    async def waiting() -> bool:
        page = await bus.api(f"CONSUMER.INFO.{TASKS}.{LANE.name}")
        return bool(page["num_waiting"] == 1)

    await eventually(waiting, "the pull waits at the server")
    pulling.cancel()
    await asyncio.wait([pulling])
    where = await submitted(log)
    ticket = await puller.pull(LANE, 5)
    assert ticket is not None
    assert ticket.address == where


async def test_nothing_is_sent_while_the_server_is_away(
    log: TaskLog, bus: Bus, nats_server: NatsServer
) -> None:
    where = await submitted(log)
    nats_server.kill()

    async def away() -> bool:
        return not bus.connected

    await eventually(away, "the connection is down")
    with pytest.raises(DisconnectedError):
        await log.append(Address(LANE, clock.new_task_id()), SUBMITTED, expected=0, patience_s=0.2)
    nats_server.start()

    async def back() -> bool:
        return bus.connected

    await eventually(back, "the connection is back")
    assert (await log.lookup(where.task_id)).last == 1
    sequence = await log.append(Address(LANE, clock.new_task_id()), SUBMITTED, expected=0, patience_s=5)
    assert sequence == 2


async def test_a_follower_misses_and_repeats_nothing_across_a_crash_of_the_server(
    log: TaskLog, bus: Bus, nats_server: NatsServer
) -> None:
    for _ in range(50):
        await submitted(log)
    follower = Follower(bus, TASKS, "task.>", "follower", start=1)
    seen: list[int] = []

    async def follow() -> None:
        async for batch in follower.batches():
            seen.extend(stored.sequence for stored in batch)

    async with background(follow()):
        await follower.caught_up.wait()
        nats_server.kill()
        nats_server.start()
        for _ in range(50):
            where = Address(LANE, clock.new_task_id())
            await log.append(where, SUBMITTED, expected=0, patience_s=20)

        async def all_seen() -> bool:
            return len(seen) >= 100

        await eventually(all_seen, "all events are seen")
    assert seen == list(range(1, 101))


async def test_of_racing_writers_of_a_key_one_wins(log: TaskLog, bus: Bus) -> None:
    del log
    bucket = Bucket(bus, LEASES)
    revisions = await asyncio.gather(*(bucket.replace("k", b"%d" % n, 0) for n in range(8)))
    assert len([revision for revision in revisions if revision]) == 1
    entry = await bucket.get("k")
    assert await bucket.replace("k", b"next", entry.revision) is not None
    assert (await bucket.get("nothing")).value is None


async def test_a_key_is_deleted_only_as_it_was_seen_and_can_be_written_again(
    log: TaskLog, bus: Bus
) -> None:
    del log
    bucket = Bucket(bus, BACKENDS)
    first = await bucket.replace("k", b"one", 0)
    assert first is not None
    second = await bucket.replace("k", b"two", first)
    assert await bucket.delete("k", first) is None
    assert (await bucket.get("k")).value == b"two"
    assert second is not None
    deleted = await bucket.delete("k", second)
    assert await bucket.get("k") == Entry("k", None, deleted or 0)
    assert deleted is not None
    assert await bucket.replace("k", b"three", deleted) is not None


async def test_what_is_left_of_a_deleted_key_goes_after_its_time(log: TaskLog, bus: Bus) -> None:
    del log
    bucket = Bucket(bus, BACKENDS)
    followed = Followed(bus, BACKENDS, "followed", lambda _key, value: value)
    first = await bucket.replace("k", b"one", 0) or 0
    second = await bucket.replace("k", b"two", first) or 0

    async def follow() -> None:
        async for _ in followed.changes():
            pass

    async with background(follow()):
        assert await followed.reached(second, 5)
        assert followed.entries == {"k": b"two"}
        deleted = await bucket.delete("k", second, marked_s=1) or 0
        assert await followed.reached(deleted, 5)
        assert followed.entries == {}
        assert not await followed.reached(deleted + 1, 0.01)

    async def nothing_left() -> bool:
        return await bucket.get("k") == Entry("k", None, 0)

    await eventually(nothing_left, "nothing is left of the key")


async def test_a_lease_is_one_holders_until_it_is_released_or_stale(log: TaskLog, bus: Bus) -> None:
    del log
    one, two = Leases(bus, "one", 1.0), Leases(bus, "two", 1.0)
    async with background(one.follow(), two.follow()):
        await one.known.wait()
        await two.known.wait()
        held = await one.take("gpu.0", Lease())
        assert held is not None
        assert await two.take("gpu.0", Lease()) is None

        async def seen() -> bool:
            return two.sighting("gpu.0") is not None

        await eventually(seen, "the other sees it")
        assert two.claim("gpu.0") is Claim.HELD
        await held.release()

        async def free() -> bool:
            return two.claim("gpu.0") is Claim.FREE

        await eventually(free, "it is released")
        lost = await one.take("gpu.0", Lease())
        assert lost is not None

        async def stale() -> bool:
            return two.claim("gpu.0") is Claim.STALE

        await eventually(stale, "nobody renews it")
        assert await two.take("gpu.0", Lease()) is not None
        assert not lost.valid
        assert not await lost.write(Lease())


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 70_000):
        yield data[start : start + 70_000]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 7])
async def test_what_is_stored_comes_back_whole_and_in_part(log: TaskLog, bus: Bus, size: int) -> None:
    del log
    store = ArtifactStore(bus)
    data = bytes(n * 31 % 251 for n in range(size))
    name = ArtifactId("a-picture")
    stored = await store.put(
        name,
        pieces(data),
        nuid=clock.new_name(),
        now=clock.now(),
        media_type="image/png",
        keep=timedelta(days=1),
    )
    info = await store.info(name)
    assert info == stored
    assert info.size == size
    assert b"".join([chunk async for chunk in store.read(info)]) == data
    middle = b"".join([chunk async for chunk in store.read(info, size // 3, size // 2)])
    assert middle == data[size // 3 : size // 2]


async def broken_off(data: bytes) -> AsyncIterator[bytes]:
    async for piece in pieces(data):
        yield piece
    raise RejectedError(Code.BODY_TOO_LARGE, "that is all")


async def test_what_breaks_off_leaves_nothing(log: TaskLog, bus: Bus) -> None:
    del log
    store = ArtifactStore(bus)
    name = ArtifactId("broken-off")
    content = broken_off(bytes(5 * CHUNK))
    with pytest.raises(RejectedError):
        await store.put(name, content, nuid=clock.new_name(), now=clock.now(), media_type="x/y")
    assert await store.info(name) is None
    state = (await bus.api("STREAM.INFO.OBJ_ARTIFACTS"))["state"]
    assert state["messages"] == 0


async def test_bytes_that_are_gone_are_an_error_and_not_a_short_read(log: TaskLog, bus: Bus) -> None:
    del log
    store = ArtifactStore(bus)
    name = ArtifactId("gone")
    info = await store.put(
        name, pieces(bytes(3 * CHUNK)), nuid=clock.new_name(), now=clock.now(), media_type="x/y"
    )
    await store.delete(info, clock.now())
    assert await store.info(name) is None
    with pytest.raises(IncompleteError):
        _ = [chunk async for chunk in store.read(info)]


async def test_a_request_that_is_cancelled_as_its_answer_comes_is_cancelled(bus: Bus) -> None:
    asked, told = asyncio.Event(), asyncio.Event()

    async def answer() -> None:
        question = await questions.get()
        asked.set()
        await told.wait()
        await question.respond(b"late")

    questions = asyncio.Queue[Msg]()
    await bus.subscribe("test.question", questions.put_nowait)
    answering = asyncio.create_task(answer())
    asking = asyncio.create_task(bus.request("test.question"))
    await asked.wait()
    [(inbox, take)] = bus._handlers.items()  # noqa: SLF001 - to be there in the very moment

    def take_and_cancel(message: Msg) -> None:
        take(message)
        asking.cancel()

    bus._handlers[inbox] = take_and_cancel  # noqa: SLF001 - as above
    told.set()

    with pytest.raises(asyncio.CancelledError):
        await asking
    await answering
