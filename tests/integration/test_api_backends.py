"""Adding, announcing, changing and removing backends while everything runs."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from schemas import fleet, registry
from schemas import lease as leases
from schemas.errors import Code
from schemas.fleet import Condition, Health
from schemas.ids import BackendId, TaskId
from schemas.lease import RELEASED, Lease
from schemas.registry import Source
from schemas.subjects import BACKENDS, FLEET, LEASES, lease_key
from services import clock
from services.api import registrar, silence
from services.bus.buckets import Bucket
from services.init.main import prepare
from tests.api import Json, Reply, Rig, eventually, running, settings_for
from tests.nats import NatsServer

BACKENDS_AT = "/api/v1/backends"
GPU = f"{BACKENDS_AT}/gpu-1"
BODY = {"name": "gpu-1", "url": "http://gpu:8080", "kind": "image"}
TASK = TaskId("0199d4e8-7c1a-7000-8000-0123456789ab")


async def add(rig: Rig, **members: Any) -> Reply:  # Any: JSON
    return await rig.ask("POST", BACKENDS_AT, json={**BODY, **members})


async def change(rig: Rig, path: str = GPU, **members: Any) -> Reply:  # Any: JSON
    return await rig.ask("PATCH", path, json=members)


async def names(rig: Rig) -> list[str]:
    return [one["name"] for one in (await rig.ask("GET", BACKENDS_AT)).json["backends"]]


async def stored(rig: Rig, name: str = "gpu-1") -> registry.Backend | None:
    entry = await Bucket(rig.bus, BACKENDS).get(name)
    return registry.decode(entry.value) if entry.value else None


async def lend(rig: Rig, lease: Lease, name: str = "gpu-1") -> None:
    """Write a lease as a dispatcher does, and wait until the api shows what it says."""
    bucket, key = Bucket(rig.bus, LEASES), lease_key(BackendId(name), 0)
    await bucket.replace(key, leases.encode(lease), (await bucket.get(key)).revision)

    async def seen() -> bool:
        shown = (await rig.ask("GET", f"{BACKENDS_AT}/{name}")).json
        return bool(shown["running"]) == (lease.task_id is not None)

    await eventually(seen)


async def test_a_backend_that_is_added_is_there_with_its_models_at_once(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        added = await add(rig, models=["Qwen-Image"], slots=2, labels={"zone": "b"}, api_key="hush")
        assert (added.status, added.headers["location"]) == (201, GPU)
        shown = await rig.ask("GET", GPU)
        assert shown.json == added.json
        assert (shown.json["source"], shown.json["wanted"], shown.json["alive_until"]) == (
            "api",
            "on",
            None,
        )
        assert (shown.json["models"], shown.json["labels"]) == (["Qwen-Image"], {"zone": "b"})
        assert b"hush" not in added.body
        await rig.submit(model="Qwen-Image")
        backend = await stored(rig)
        assert backend is not None
        assert (backend.api_key, backend.slots) == ("hush", 2)


async def test_a_name_is_taken_until_its_backend_is_removed(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        assert (await add(rig)).status == 201
        assert (await add(rig)).refusal() == (409, Code.BACKEND_EXISTS, "name")
        assert (await add(rig, ttl_s=30)).refusal() == (409, Code.BACKEND_EXISTS, "name")
        assert (await change(rig, wanted="off")).status == 200
        removed = await rig.ask("DELETE", GPU)
        assert (removed.status, removed.json["name"]) == (200, "gpu-1")
        assert await names(rig) == []
        again = await add(rig, url="http://other")
        assert (again.status, again.json["url"], again.json["wanted"]) == (201, "http://other", "on")


@pytest.mark.parametrize(
    ("members", "code", "member"),
    [
        ({"name": "GPU"}, Code.OUT_OF_RANGE, "name"),
        ({"name": ">"}, Code.OUT_OF_RANGE, "name"),
        ({"url": "gpu"}, Code.OUT_OF_RANGE, "url"),
        ({"kind": "video"}, Code.OUT_OF_RANGE, "kind"),
        ({"protocol": "openai_stt"}, Code.OUT_OF_RANGE, "protocol"),
        ({"slots": "2"}, Code.WRONG_TYPE, "slots"),
        ({"colour": "red"}, Code.UNKNOWN_MEMBER, "colour"),
        ({"ttl_s": 30, "wanted": "on"}, Code.CONFLICTING_MEMBERS, "wanted"),
    ],
)
async def test_what_is_wrong_is_refused_by_name_and_nothing_is_stored(
    nats_server: NatsServer, tmp_path: Path, members: Json, code: Code, member: str
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        assert (await add(rig, **members)).refusal() == (422, code, member)
        assert await names(rig) == []


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_body_that_is_no_object_is_refused(
    nats_server: NatsServer, tmp_path: Path, method: str
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        path = BACKENDS_AT if method == "POST" else GPU
        for content in (b"", b"[]", b"{", b"\xff"):
            assert (await rig.ask(method, path, data=content)).refusal()[:2] == (400, Code.MALFORMED)
        reply = await rig.ask(method, f"{path}?force=true", json=BODY)
        assert reply.refusal() == (422, Code.UNKNOWN_MEMBER, "force")


@pytest.mark.parametrize("name", ["gpu-9", "GPU", "%3E", "%2A", "a.b", "a%22%5D"])
async def test_what_is_not_there_is_neither_changed_nor_removed(
    nats_server: NatsServer, tmp_path: Path, name: str
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await add(rig)
        for method in ("PATCH", "DELETE"):
            reply = await rig.ask(method, f"{BACKENDS_AT}/{name}", json={})
            assert reply.refusal() == (404, Code.UNKNOWN_BACKEND, None)
            assert reply.json["allowed"] == ["gpu-1"]


async def test_a_change_is_of_the_members_it_names(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        before = (await add(rig, slots=2)).json
        changed = await change(rig, weight=0.5, wanted="draining", models=["a=b"])
        expected = {**before, "weight": 0.5, "wanted": "draining", "models": ["a"]}
        assert (changed.status, changed.json) == (200, expected)
        assert (await change(rig)).json == expected
        assert (await rig.ask("GET", GPU)).json == expected
        assert (await change(rig, name="b")).refusal() == (422, Code.UNKNOWN_MEMBER, "name")
        assert (await change(rig, slots=0)).refusal() == (422, Code.OUT_OF_RANGE, "slots")


async def test_changes_at_the_same_time_are_all_made(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await add(rig)
        members: list[Json] = [{"slots": 7}, {"weight": 7.0}, {"keeps": 7}, {"labels": {"a": "7"}}]
        replies = await asyncio.gather(*(change(rig, **one) for one in members))
        assert [reply.status for reply in replies] == [200] * len(members)
        shown = (await rig.ask("GET", GPU)).json
        assert all(shown[name] == value for one in members for name, value in one.items())


async def test_a_backend_is_removed_only_once_it_is_drained_and_runs_nothing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await add(rig)
        assert (await rig.ask("DELETE", GPU)).refusal() == (409, Code.BACKEND_IN_USE, None)
        await lend(rig, Lease(holder="dispatcher-7", task_id=TASK))
        drained = await change(rig, wanted="draining")
        assert (drained.json["wanted"], drained.json["draining"]) == ("draining", True)
        refused = await rig.ask("DELETE", GPU)
        assert refused.refusal() == (409, Code.BACKEND_IN_USE, None)
        assert "runs 1 task;" in refused.json["detail"]
        await lend(rig, RELEASED)
        assert (await rig.ask("DELETE", GPU)).status == 200
        assert (await rig.ask("DELETE", GPU)).refusal() == (404, Code.UNKNOWN_BACKEND, None)


async def test_what_was_changed_or_removed_stays_so_when_init_runs_again(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    urls = {"1": "http://gpu:8080?slots=2", "2": "http://gpu:8081"}
    settings = settings_for(nats_server, tmp_path, image_gen_urls=urls)
    async with running(settings, projected=False) as rig:
        first, second = f"{BACKENDS_AT}/image-1", f"{BACKENDS_AT}/image-2"
        await change(rig, first, slots=4, weight=2.0, wanted="draining")
        await change(rig, second, wanted="off")
        assert (await rig.ask("DELETE", second)).status == 200
        await prepare(rig.bus, settings)
        assert await names(rig) == ["image-1"]
        shown = (await rig.ask("GET", first)).json
        assert (shown["slots"], shown["weight"], shown["wanted"]) == (4, 2.0, "draining")
        urls["1"] = "http://gpu:8080?slots=3"
        await prepare(rig.bus, settings)
        backend = await stored(rig, "image-1")
        assert backend is not None
        assert (backend.slots, backend.weight, backend.source) == (3, 2.0, Source.CONFIG)


async def test_an_announcement_is_renewed_by_saying_it_again(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        first = await add(rig, ttl_s=30)
        assert (first.status, first.json["source"]) == (201, "announced")
        await change(rig, wanted="draining", weight=0.5)
        second = await add(rig, ttl_s=60, slots=2)
        assert (second.status, second.headers["location"]) == (200, GPU)
        assert second.json["alive_until"] > first.json["alive_until"]
        shown = (second.json["wanted"], second.json["weight"], second.json["slots"])
        assert shown == ("draining", 0.5, 2)


async def test_of_what_was_added_and_removed_nothing_is_left_in_the_end(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrar, "_MARKED_S", 1)
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await add(rig, wanted="off")
        await change(rig, slots=2)
        buckets = [Bucket(rig.bus, name) for name in (BACKENDS, FLEET)]
        for health in (Health(condition=Condition.STUCK), Health(condition=Condition.DOWN)):
            await buckets[1].put(fleet.health_key(BackendId("gpu-1")), fleet.encode(health))
        assert (await rig.ask("DELETE", GPU)).status == 200
        assert (await buckets[0].get("gpu-1")).value is None

        async def nothing_left() -> bool:
            return [await bucket.all() for bucket in buckets] == [[], []]

        await eventually(nothing_left)
        again = await add(rig)
        assert (again.status, again.json["condition"]) == (201, "unknown")


async def silent(rig: Rig, **members: Any) -> None:  # Any: JSON
    """Announce a backend whose time is over."""
    await add(rig, ttl_s=5, **members)
    bucket = Bucket(rig.bus, BACKENDS)
    entry = await bucket.get("gpu-1")
    assert entry.value is not None
    backend = registry.decode(entry.value)
    past = registry.encode(replace(backend, alive_until=clock.now() - timedelta(seconds=1)))
    assert await bucket.replace("gpu-1", past, entry.revision) is not None


async def test_a_silent_instance_is_taken_out_of_use_and_comes_back_when_it_speaks(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "_GRACE_S", 0.0)
    settings = settings_for(nats_server, tmp_path, sweep_interval_s=0.05)
    async with running(settings) as rig:
        await silent(rig)

        async def gone() -> bool:
            return not await names(rig)

        await eventually(gone)
        again = await add(rig, ttl_s=30)
        assert (again.status, again.json["wanted"]) == (201, "on")


async def test_a_silent_instance_ends_what_it_runs_first(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "_GRACE_S", 0.0)
    settings = settings_for(nats_server, tmp_path, sweep_interval_s=0.05)
    async with running(settings) as rig:
        await add(rig, ttl_s=3600)
        await lend(rig, Lease(holder="dispatcher-7", task_id=TASK))
        await silent(rig)

        async def drains() -> bool:
            return bool((await rig.ask("GET", GPU)).json["draining"])

        await eventually(drains)
        # It speaks again before its task has ended, and is on; then it is silent to the end.
        assert (await add(rig, ttl_s=30)).json["wanted"] == "on"
        await silent(rig)
        await eventually(drains)
        bucket, key = Bucket(rig.bus, LEASES), lease_key(BackendId("gpu-1"), 0)
        await bucket.replace(key, leases.encode(RELEASED), (await bucket.get(key)).revision)

        async def gone() -> bool:
            return not await names(rig)

        await eventually(gone)


async def test_a_silence_counts_only_once_it_could_have_been_heard(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path, sweep_interval_s=0.05)
    async with running(settings) as rig:
        await silent(rig)
        # The sweeper has looked many times by the time it has expired this.
        task_id = await rig.submit(start_deadline_s=1)

        async def expired() -> bool:
            return bool((await rig.ask("GET", f"/api/v1/tasks/{task_id}")).json["status"] == "EXPIRED")

        await eventually(expired)
        assert await names(rig) == ["gpu-1"]


async def test_without_nats_nothing_is_changed(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await add(rig)
        nats_server.kill()

        async def noticed() -> bool:
            return (await change(rig, slots=2)).status == 503

        await eventually(noticed)
        for reply in (
            await add(rig, name="gpu-2"),
            await change(rig, slots=2),
            await rig.ask("DELETE", GPU),
        ):
            assert reply.refusal() == (503, Code.NATS_AWAY, None)
            assert reply.headers["retry-after"] == "2"
