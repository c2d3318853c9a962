"""Streams and histories by filter: the same events for who follows, comes back elsewhere, or reads."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import pytest

from schemas import subjects
from schemas.ids import TaskId
from schemas.subjects import progress_subject
from services import clock
from tests.api import Json, Rig, eventually, running, settings_for
from tests.integration.test_api_replicas import replicas
from tests.integration.test_api_sse import Listener, listening
from tests.lives import BATCH, Told, World
from tests.nats import NatsServer

EVENTS: Final = "/api/v1/events"
AS_JSON: Final = {"Accept": "application/json"}
Holds = Callable[[Told], bool]
FILTERS: Final[list[tuple[dict[str, str], Holds]]] = [
    ({}, lambda _: True),
    ({"kind": "speech"}, lambda told: told.life.kind == "speech"),
    ({"status": "RUNNING,FAILED"}, lambda told: told.status in {"RUNNING", "FAILED"}),
    ({"type": "failed,cancelled"}, lambda told: told.type in {"task.failed", "task.cancelled"}),
    ({"type": "task.submitted"}, lambda told: told.type == "task.submitted"),
    ({"user": "ada"}, lambda told: told.life.user == "ada"),
    ({"tag": "zoo"}, lambda told: told.life.tag == "zoo"),
    ({"tenant": "other"}, lambda told: told.life.tenant == "other"),
    ({"text": "red fox"}, lambda told: told.life.prompt == "a red fox"),
    ({"text": '"red house" the'}, lambda told: told.life.prompt == "the red house"),
    ({"batch": BATCH}, lambda told: told.life.batch == BATCH),
    ({"backend": "image-2"}, lambda told: told.backend == "image-2"),
    ({"error": "boom"}, lambda told: told.error == "boom"),
    ({"model": "Qwen/Image"}, lambda told: told.life.model == "Qwen/Image"),
    ({"model": "any"}, lambda told: told.life.model is None),
    ({"priority": "high"}, lambda told: told.life.priority == "high"),
    ({"finished_after": "2026-01-01T00:00:00Z"}, lambda told: told.status in {"FAILED", "CANCELLED"}),
    ({"finished_before": "2026-01-01T00:00:00Z"}, lambda _: False),
    ({"batch": BATCH, "type": "failed"}, lambda told: told.life.batch == BATCH and told.status == "FAILED"),
    (
        {"user": "bob", "kind": "image", "tag": "city", "status": "RUNNING"},
        lambda told: (
            (told.life.user, told.life.kind, told.life.tag) == ("bob", "image", "city")
            and told.status == "RUNNING"
        ),
    ),
]


def path(query: dict[str, str]) -> str:
    return f"{EVENTS}?{urlencode(query)}" if query else EVENTS


async def heard(listener: Listener, count: int) -> list[int]:
    """Read ids until there have been so many, and then a sign of life where another event would be."""
    found: list[int] = []
    async for block in listener.lines():
        if block.startswith(b"id: "):
            found.append(int(block.split(b"\n")[0][4:]))
        if block == b": heartbeat" and len(found) >= count:
            break
    return found


async def history(rig: Rig, query: dict[str, str], up_to: int) -> list[Json]:
    """Read all pages of a history."""
    events: list[Json] = []
    following: int | None = 0
    headers = {**AS_JSON, "Taskfold-Sequence": str(up_to)}
    while following is not None:
        reply = await rig.ask("GET", path({**query, "last_event_id": str(following)}), headers=headers)
        assert reply.status == 200, reply.body
        events += reply.json["events"]
        following = reply.json["next"]
    return events


def sequences(events: list[Json]) -> list[int]:
    return [event["sequence"] for event in events]


async def test_a_filter_means_the_same_live_replayed_and_as_history(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path, sse_heartbeat_s=0.3, sse_coalesce_s=0.01)
    async with running(settings) as rig, contextlib.AsyncExitStack() as stack, asyncio.timeout(60):
        world = World(rig)
        live = [await stack.enter_async_context(listening(rig, path(query))) for query, _ in FILTERS]
        await world.live(range(300))
        for (query, holds), listener in zip(FILTERS, live, strict=True):
            expected = world.meant(holds)
            assert bool(expected) == ("finished_before" not in query)
            assert sequences(await history(rig, query, world.last)) == expected, query
            async with listening(rig, path(query), 0) as late:
                assert await heard(late, len(expected)) == expected, query
            assert await heard(listener, len(expected)) == expected, query


async def test_times_of_submission_part_the_events_of_their_tasks(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path, sse_heartbeat_s=0.2)) as rig:
        world = World(rig)
        await world.live(range(20))
        middle = await _next_millisecond()
        first = world.meant(lambda _: True)
        await world.live(range(20, 40))
        second = [sequence for sequence in world.meant(lambda _: True) if sequence not in first]
        for member, expected in (("submitted_before", first), ("submitted_after", second)):
            assert sequences(await history(rig, {member: middle}, world.last)) == expected
            async with listening(rig, path({member: middle}), 0) as listener:
                assert await heard(listener, len(expected)) == expected


async def _next_millisecond() -> str:
    """Give a time that is later than all that was, and that all that comes is not before."""
    now = clock.now()
    after = datetime.fromtimestamp(int(now.timestamp() * 1000 + 2) / 1000, now.tzinfo)

    async def there() -> bool:
        return clock.now() >= after

    await eventually(there)
    return after.isoformat()


async def test_progress_comes_by_the_filter_of_its_task_and_by_its_type(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig, contextlib.AsyncExitStack() as stack:
        queries = [{"user": "ada"}, {"type": "progress"}, {"status": "RUNNING"}, {"type": "done"}]
        listeners = [await stack.enter_async_context(listening(rig, path(query))) for query in queries]
        ids = [await rig.submit(user=user) for user in ("bob", "ada")]
        last = max([await rig.start(task_id) for task_id in ids])
        await rig.ask("GET", "/api/v1/queues", headers={"Taskfold-Sequence": str(last)})
        for task_id in ids:
            await _progress(rig, task_id)
        bob, ada = ids
        expected = [
            [("task.submitted", ada), ("task.started", ada), ("task.progress", ada)],
            [("task.progress", bob), ("task.progress", ada)],
            [*(("task.started", one) for one in ids), *(("task.progress", one) for one in ids)],
        ]
        async with asyncio.timeout(10):
            for listener, told in zip(listeners, expected, strict=False):
                frames = listener.frames()
                found = [await anext(frames) for _ in told]
                assert [(frame.event, frame.data["task_id"]) for frame in found] == told


async def _progress(rig: Rig, task_id: TaskId) -> None:
    await rig.bus.publish(progress_subject(task_id), b'{"attempt":1,"fraction":0.5}', {})

    async def shown() -> bool:
        return (await rig.ask("GET", f"/api/v1/tasks/{task_id}")).json["progress"] is not None

    await eventually(shown)


WRONG: Final = {
    "kind=video": "kind",
    "status=ASLEEP": "status",
    "type=gone": "type",
    "type=": "type",
    "user=": "user",
    "priority=now": "priority",
    "text=": "text",
    "submitted_after=yesterday": "submitted_after",
    "batch=7": "batch",
    "colour=red": "colour",
    "last_event_id=-1": "last_event_id",
    "last_event_id=snap": "last_event_id",
    "at_seq=1": "at_seq",
    "user=a&user=b": "user",
}


@pytest.mark.parametrize("headers", [{}, AS_JSON], ids=["stream", "json"])
async def test_a_wrong_member_is_named(
    nats_server: NatsServer, tmp_path: Path, headers: dict[str, str]
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        for query, member in WRONG.items():
            status, _, named = (await rig.ask("GET", f"{EVENTS}?{query}", headers=headers)).refusal()
            assert (status, named) == (422, member), query


class Wanderer:
    """Follows what a filter means, leaving and coming back to another replica every few frames."""

    def __init__(self, number: int, query: dict[str, str]) -> None:
        self._query = query
        self._stays = itertools.cycle([1 + (number * 7 + step * step * 13) % 40 for step in range(17)])
        self._turns = itertools.cycle([(number + step * step) % 2 for step in range(7)])
        self.seen: list[int] = []

    async def follow(self, rigs: list[Rig], world: World, holds: Holds) -> None:
        while not (world.done and self.seen and self.seen[-1] == max(world.meant(holds))):
            await self._stay(rigs[next(self._turns)], next(self._stays))

    async def _stay(self, rig: Rig, frames: int) -> None:
        after = self.seen[-1] if self.seen else 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1), listening(rig, path(self._query), after) as listener:
                async for frame in listener.frames():
                    assert frame.id is not None, frame
                    self.seen.append(frame.id)
                    if not (frames := frames - 1):
                        break


async def rebuild(rig: Rig) -> None:
    """Have both read models made anew, and wait for ours to be another file."""
    before = rig.settings.readmodel_path.resolve()
    await rig.bus.send(subjects.REBUILD)

    async def switched() -> bool:
        return rig.settings.readmodel_path.resolve() != before

    await eventually(switched)


async def test_who_comes_back_misses_nothing_on_any_replica_and_across_rebuilds(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with replicas(nats_server, tmp_path) as rigs, asyncio.timeout(80):
        world = World(rigs[0])
        chosen = [FILTERS[number] for number in (0, 2, 3, 5, 6, 8, 10, 11)]
        wanderers = [(Wanderer(n, query), holds) for n, (query, holds) in enumerate(chosen)]
        following = [
            asyncio.ensure_future(wanderer.follow(rigs, world, holds)) for wanderer, holds in wanderers
        ]
        await world.live(range(200))
        for first in (200, 400):
            await asyncio.gather(rebuild(rigs[0]), world.live(range(first, first + 200)))
        world.done = True
        await asyncio.gather(*following)
        for wanderer, holds in wanderers:
            assert wanderer.seen == world.meant(holds)
