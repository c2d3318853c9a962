"""What is shown of the backends and of the queues before them."""

import contextlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from schemas import fleet, readmodel, registry
from schemas import lease as leases
from schemas.errors import Code
from schemas.events import AttemptFailed, TaskError
from schemas.fleet import Circuit, Condition, Health, Learned
from schemas.ids import BackendId, TaskId
from schemas.lease import RELEASED, Lease
from schemas.registry import Backend, Protocol, Wanted
from schemas.requests import Kind
from schemas.subjects import BACKENDS, FLEET, LEASES, lease_key
from services import clock
from services.bus.buckets import Bucket
from tests.api import Json, Rig, eventually, running, settings_for
from tests.nats import NatsServer

SHOWN = "/api/v1/backends"
QUEUES = "/api/v1/queues"
IMAGE = Backend(name=BackendId("image-1"), url="http://gpu:8080", kind=Kind.IMAGE)
SPEECH = Backend(name=BackendId("speech-1"), url="http://gpu:8081", kind=Kind.SPEECH)
TASK = TaskId("0199d4e8-7c1a-7000-8000-0123456789ab")
NINE = datetime(2026, 11, 24, 9, tzinfo=UTC)
BUSY = Lease(
    holder="dispatcher-7",
    task_id=TASK,
    attempt=2,
    since=NINE,
    tenant="acme",
)


async def write(rig: Rig, bucket: str, key: str, value: bytes) -> None:
    opened = Bucket(rig.bus, bucket)
    assert await opened.replace(key, value, (await opened.get(key)).revision) is not None


async def register(rig: Rig, *backends: Backend) -> None:
    """Put backends into the registry, and wait until the api has seen them."""
    for backend in backends:
        await write(rig, BACKENDS, backend.name, registry.encode(backend))

    async def seen() -> bool:
        shown = {one["name"]: one for one in (await rig.ask("GET", SHOWN)).json["backends"]}
        return all(
            backend.name not in shown
            if backend.wanted is Wanted.GONE
            else shown.get(backend.name, {}).get("slots") == backend.slots
            and shown[backend.name]["wanted"] == backend.wanted
            for backend in backends
        )

    await eventually(seen)


async def lend(rig: Rig, backend: Backend, slot: int, lease: Lease) -> None:
    """Write a lease as a dispatcher does, and wait until the api shows what it says."""
    await write(rig, LEASES, lease_key(backend.name, slot), leases.encode(lease))

    async def seen() -> bool:
        shown = (await rig.ask("GET", f"{SHOWN}/{backend.name}")).json["running"]
        task_ids = [one["task_id"] for one in shown if one["slot"] == slot]
        return task_ids == ([lease.task_id] if lease.task_id else [])

    await eventually(seen)


async def queue(rig: Rig, model: str = "any", kind: str = "image") -> Json | None:
    queues: list[Json] = (await rig.ask("GET", QUEUES)).json["queues"]
    return next((one for one in queues if (one["kind"], one["model"]) == (kind, model)), None)


async def counted(rig: Rig, model: str = "any", **expected: int) -> Json:
    """Wait until a queue has these counts, and nought of every other."""
    whole = {"waiting": 0, "scheduled": 0, "retrying": 0, "running": 0, **expected}
    found: list[Json] = []

    async def there() -> bool:
        one = await queue(rig, model)
        if one is not None and {name: one[name] for name in whole} == whole:
            found.append(one)
        return bool(found)

    await eventually(there)
    return found[0]


async def test_a_backend_is_shown_as_it_is_known(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        assert (await rig.ask("GET", SHOWN)).json == {"backends": []}
        recognised = replace(IMAGE, learned_protocol=Protocol.SDCPP, learned_models=("Qwen/Qwen-Image",))
        await register(rig, replace(SPEECH, slots=2, weight=0.5), recognised)
        reply = await rig.ask("GET", SHOWN)
        assert reply.headers["cache-control"] == "no-cache"
        image, speech = reply.json["backends"]
        assert image == {
            "name": "image-1",
            "kind": "image",
            "url": "http://gpu:8080",
            "protocol": "sdcpp",
            "models": ["Qwen/Qwen-Image"],
            "slots": 1,
            "keeps": 1,
            "weight": 1.0,
            "labels": {},
            "wanted": "on",
            "source": "config",
            "alive_until": None,
            "condition": "unknown",
            "circuit": "closed",
            "reason": None,
            "since": None,
            "warm_models": [],
            "seconds_per_unit": {},
            "load_s": None,
            "draining": False,
            "running": [],
        }
        assert (speech["name"], speech["protocol"], speech["models"]) == ("speech-1", None, [])
        assert (speech["slots"], speech["weight"]) == (2, 0.5)
        assert (await rig.ask("GET", f"{SHOWN}/speech-1")).json == speech
        head = await rig.ask("HEAD", f"{SHOWN}/speech-1")
        assert (head.status, head.body) == (200, b"")


async def test_what_dispatchers_have_learned_of_a_backend_is_shown(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await register(rig, IMAGE)
        health = Health(condition=Condition.DOWN, reason="refused", circuit=Circuit.OPEN, since=NINE)
        learned = Learned(seconds={"qwen-image": 0.5}, load_s=12.0, warm=("qwen-image",))
        await write(rig, FLEET, fleet.health_key(IMAGE.name), fleet.encode(health))
        await write(rig, FLEET, fleet.learned_key(IMAGE.name), fleet.encode(learned))
        await write(rig, FLEET, f"{IMAGE.name}.health.of-a-newer-version", b"{")
        expected = {
            "condition": "down",
            "circuit": "open",
            "reason": "refused",
            "since": "2026-11-24T09:00:00.000Z",
            "warm_models": ["qwen-image"],
            "seconds_per_unit": {"qwen-image": 0.5},
            "load_s": 12.0,
        }

        async def seen() -> bool:
            shown: Json = (await rig.ask("GET", f"{SHOWN}/image-1")).json
            return {name: shown[name] for name in expected} == expected

        await eventually(seen)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://gpu:8080/v1", "http://gpu:8080/v1"),
        ("http://me:hush@gpu:8080/v1", "http://***@gpu:8080/v1"),
        ("https://me:hu@hush@gpu", "https://***@gpu"),
        ("http://gpu:8080/?api_key=hush#hush", "http://gpu:8080/"),
        ("http://[hush", "***"),
    ],
)
async def test_no_secret_of_a_backend_is_shown(
    nats_server: NatsServer, tmp_path: Path, url: str, shown: str
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await register(rig, replace(IMAGE, url=url, api_key="hush"))
        for path in (SHOWN, f"{SHOWN}/image-1"):
            assert b"hush" not in (await rig.ask("GET", path)).body
        assert (await rig.ask("GET", f"{SHOWN}/image-1")).json["url"] == shown


async def test_a_backend_that_is_gone_or_was_never_there_is_not_shown(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await register(rig, IMAGE, SPEECH)
        await register(rig, replace(IMAGE, wanted=Wanted.GONE))
        assert [one["name"] for one in (await rig.ask("GET", SHOWN)).json["backends"]] == ["speech-1"]
        for name in ("image-1", "image-2"):
            reply = await rig.ask("GET", f"{SHOWN}/{name}")
            assert reply.refusal() == (404, Code.UNKNOWN_BACKEND, None)
            assert reply.json["allowed"] == ["speech-1"]


async def test_a_slot_runs_from_the_lease_to_its_release(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await register(rig, replace(IMAGE, slots=2))
        await lend(rig, IMAGE, 0, Lease(holder="dispatcher-7"))
        await lend(rig, IMAGE, 1, BUSY)
        assert (await rig.ask("GET", f"{SHOWN}/image-1")).json["running"] == [
            {
                "slot": 1,
                "task_id": TASK,
                "attempt": 2,
                "dispatcher": "dispatcher-7",
                "since": "2026-11-24T09:00:00.000Z",
            }
        ]
        await lend(rig, IMAGE, 1, RELEASED)
        assert (await rig.ask("GET", f"{SHOWN}/image-1")).json["running"] == []


async def test_a_slot_that_nobody_renews_does_not_run(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path, lease_s=1.0)) as rig:
        await register(rig, IMAGE)
        await lend(rig, IMAGE, 0, BUSY)

        async def over() -> bool:
            return not (await rig.ask("GET", f"{SHOWN}/image-1")).json["running"]

        await eventually(over)


@pytest.mark.parametrize("wanted", [Wanted.DRAINING, Wanted.OFF])
async def test_a_backend_drains_until_its_last_task_has_ended(
    nats_server: NatsServer, tmp_path: Path, wanted: Wanted
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await register(rig, replace(IMAGE, slots=3))
        await lend(rig, IMAGE, 2, BUSY)
        assert (await rig.ask("GET", f"{SHOWN}/image-1")).json["draining"] is False
        # A slot that is no longer configured still runs what it began.
        await register(rig, replace(IMAGE, wanted=wanted))
        shown = (await rig.ask("GET", f"{SHOWN}/image-1")).json
        assert (shown["draining"], [one["slot"] for one in shown["running"]]) == (True, [2])
        await lend(rig, IMAGE, 2, RELEASED)
        assert (await rig.ask("GET", f"{SHOWN}/image-1")).json["draining"] is False


async def test_every_queue_that_a_backend_serves_is_there(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        assert (await rig.ask("GET", QUEUES)).json["queues"] == []
        await register(
            rig,
            replace(IMAGE, models=("Qwen/Qwen-Image", "sdxl"), slots=2),
            replace(IMAGE, name=BackendId("image-2"), models=("sdxl",), slots=4),
            replace(IMAGE, name=BackendId("image-3"), models=("flux",), slots=8, wanted=Wanted.OFF),
            replace(IMAGE, name=BackendId("image-4"), models=("old",), wanted=Wanted.GONE),
            SPEECH,
        )
        queues = (await rig.ask("GET", QUEUES)).json["queues"]
        assert [(one["kind"], one["model"], one["slots"]) for one in queues] == [
            ("image", "any", 6),
            ("image", "flux", 0),
            ("image", "qwen-qwen-image", 2),
            ("image", "sdxl", 6),
            ("speech", "any", 1),
        ]
        assert queues[0] == {
            "kind": "image",
            "model": "any",
            "waiting": 0,
            "scheduled": 0,
            "retrying": 0,
            "running": 0,
            "oldest_at": None,
            "slots": 6,
            "eta_s": None,
            "eta_error": None,
            "paused": None,
        }


async def test_a_queue_counts_a_task_through_its_life(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        submitted_at = (await rig.ask("GET", f"/api/v1/tasks/{task_id}")).json["submitted_at"]
        assert (await counted(rig, waiting=1))["oldest_at"] == submitted_at
        await rig.start(task_id)
        assert (await counted(rig, running=1))["oldest_at"] is None
        shown = (await rig.ask("GET", f"/api/v1/tasks/{task_id}")).json["attempts"]
        assert len(shown) == 1
        failed = AttemptFailed(
            attempt=1,
            error=TaskError(code="boom", message="it broke"),
            counted=1,
            attempts=(),
            retry_at=clock.now(),
        )
        await rig.append(task_id, failed)
        assert (await counted(rig, retrying=1))["oldest_at"] == submitted_at
        await rig.start(task_id)
        await counted(rig, running=1)
        await rig.finish(task_id)

        async def over() -> bool:
            return await queue(rig) is None  # nobody serves it and nothing is in it

        await eventually(over)


async def test_each_model_has_its_queue_and_the_oldest_is_of_those_in_line(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await rig.know_model(Kind.IMAGE, "Qwen-Image")
        await rig.submit(delay_s=3600, model="Qwen-Image")
        first, second, other = [
            await rig.submit(model=model) for model in ("Qwen-Image", "qwen-image", None)
        ]
        times = {
            task_id: (await rig.ask("GET", f"/api/v1/tasks/{task_id}")).json["submitted_at"]
            for task_id in (first, second, other)
        }
        shown = await counted(rig, "qwen-image", waiting=2, scheduled=1)
        assert (shown["oldest_at"], shown["slots"]) == (times[first], 1)
        assert (await counted(rig, waiting=1))["oldest_at"] == times[other]
        await rig.ask("DELETE", f"/api/v1/tasks/{first}")
        assert (await counted(rig, "qwen-image", waiting=1, scheduled=1))["oldest_at"] == times[second]


async def test_the_lag_is_none_of_the_read_model_once_it_has_caught_up(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await rig.submit()
        await rig.submit(delay_s=60)  # whose schedule, behind its event, the read model never reads

        async def caught_up() -> bool:
            lag: int = (await rig.ask("GET", QUEUES)).json["lag"]
            return lag == 0

        await eventually(caught_up)
        await counted(rig, waiting=1, scheduled=1)


async def test_without_nats_what_was_known_is_shown(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await register(rig, IMAGE)
        await lend(rig, IMAGE, 0, BUSY)
        await rig.submit()
        await counted(rig, waiting=1)
        nats_server.kill()

        async def noticed() -> bool:
            return (await rig.ask("GET", QUEUES)).json["lag"] is None

        await eventually(noticed)
        shown = await counted(rig, waiting=1)
        assert shown["slots"] == 1
        assert [one["task_id"] for one in (await rig.ask("GET", SHOWN)).json["backends"][0]["running"]] == [
            TASK
        ]


async def test_without_a_read_model_the_queues_are_away_and_the_backends_are_not(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await register(rig, IMAGE)
        reply = await rig.ask("GET", QUEUES)
        assert reply.refusal() == (503, Code.READ_MODEL_AWAY, None)
        assert reply.headers["retry-after"] == "2"
        assert (await rig.ask("GET", SHOWN)).status == 200


async def test_a_read_model_folded_anew_has_the_same_queues(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path)
    async with running(settings) as rig:
        await rig.submit(delay_s=3600)
        await rig.start(await rig.submit())
        await rig.submit()
        before = await counted(rig, waiting=1, scheduled=1, running=1)
    async with running(settings_for(nats_server, tmp_path / "anew")) as rig:
        assert await counted(rig, waiting=1, scheduled=1, running=1) == before


@pytest.mark.parametrize("path", [SHOWN, f"{SHOWN}/image-1", QUEUES])
async def test_the_fleet_is_only_looked_at_and_takes_no_parameter(
    nats_server: NatsServer, tmp_path: Path, path: str
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await register(rig, IMAGE)
        reply = await rig.ask("GET", f"{path}?colour=red")
        assert reply.refusal() == (422, Code.UNKNOWN_MEMBER, "colour")
        head, shown = await rig.ask("HEAD", path), await rig.ask("GET", path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(shown.body))
        assert (await rig.ask("PUT", path)).refusal() == (405, Code.METHOD_NOT_ALLOWED, None)
        described = (await rig.ask("GET", "/schema")).json["paths"][path.replace("image-1", "{name}")]
        assert Code.UNKNOWN_MEMBER in described["get"]["responses"]["422"]["description"]


def test_the_oldest_in_line_is_found_by_its_index() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.executescript(readmodel.TABLES + readmodel.INDEXES)
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {readmodel.QUEUES}")]

    assert any("tasks_in_queue" in step for step in plan), plan
    assert not any(step.startswith("SCAN t") for step in plan), plan
