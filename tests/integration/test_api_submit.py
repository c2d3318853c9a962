"""Taking tasks: what is refused, and what is promised once it is taken."""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas import envelope
from schemas.ids import derived_task_id
from schemas.requests import MAX_REQUEST_BYTES, Kind
from schemas.subjects import any_guard
from services import clock
from services.bus.streams import lane_depths
from tests.api import Reply, Rig, eventually, running, settings_for
from tests.nats import NatsServer

IMAGE = "/api/v1/image/async"
TASKS = "/api/v1/tasks"
UNKNOWN = "01999999-0000-7000-8000-000000000000"
Json = dict[str, Any]  # Any: JSON
AS_JSON = {"content-type": "application/json"}

REFUSALS: list[tuple[str, str, Json, tuple[int, str, str | None]]] = [
    ("POST", IMAGE, {"json": {"prompt": "x", "colour": 1}}, (422, "unknown_member", "colour")),
    ("POST", IMAGE, {"json": {}}, (422, "missing_member", "prompt")),
    ("POST", IMAGE, {"json": {"prompt": 7}}, (422, "wrong_type", "prompt")),
    ("POST", IMAGE, {"json": {"prompt": ""}}, (422, "out_of_range", "prompt")),
    ("POST", IMAGE, {"json": {"prompt": " \n"}}, (422, "out_of_range", "prompt")),
    ("POST", IMAGE, {"json": {"prompt": "x" * 10_001}}, (422, "out_of_range", "prompt")),
    ("POST", IMAGE, {"json": {"prompt": "x", "width": 63}}, (422, "out_of_range", "width")),
    ("POST", IMAGE, {"json": {"prompt": "x", "height": 8192}}, (422, "out_of_range", "height")),
    ("POST", IMAGE, {"json": {"prompt": "x", "width": 65}}, (422, "out_of_range", "width")),
    ("POST", IMAGE, {"json": {"prompt": "x", "width": "512"}}, (422, "wrong_type", "width")),
    ("POST", IMAGE, {"json": {"prompt": "x", "steps": 0}}, (422, "out_of_range", "steps")),
    ("POST", IMAGE, {"json": {"prompt": "x", "steps": 201}}, (422, "out_of_range", "steps")),
    ("POST", IMAGE, {"json": {"prompt": "x", "model": "nope"}}, (422, "unknown_model", "model")),
    ("POST", IMAGE, {"json": {"prompt": "x", "priority": "now"}}, (422, "out_of_range", "priority")),
    ("POST", IMAGE, {"json": {"prompt": "x", "webhook": "http://x"}}, (422, "unknown_member", "webhook")),
    (
        "POST",
        IMAGE,
        {"json": {"prompt": "x", "delay_s": 1, "not_before": "2027-01-01T00:00:00Z"}},
        (422, "conflicting_members", "delay_s"),
    ),
    ("POST", IMAGE, {"json": {"prompt": "x", "delay_s": 20 * 86_400}}, (422, "out_of_range", "delay_s")),
    ("POST", IMAGE, {"data": b"{nope", "headers": AS_JSON}, (400, "malformed", None)),
    ("POST", IMAGE, {"data": b"[]", "headers": AS_JSON}, (400, "malformed", None)),
    ("POST", IMAGE, {"data": b"", "headers": AS_JSON}, (400, "malformed", None)),
    (
        "POST",
        IMAGE,
        {"data": b" " * (MAX_REQUEST_BYTES + 1), "headers": AS_JSON},
        (413, "body_too_large", None),
    ),
    (
        "POST",
        IMAGE,
        {"data": b"prompt=x", "headers": {"content-type": "application/x-www-form-urlencoded"}},
        (415, "unsupported_media_type", "Content-Type"),
    ),
    ("POST", IMAGE + "?wait=3", {"json": {"prompt": "x"}}, (422, "unknown_member", "wait")),
    (
        "POST",
        IMAGE,
        {"json": {"prompt": "x"}, "headers": {"idempotency-key": "with space"}},
        (422, "out_of_range", "Idempotency-Key"),
    ),
    ("POST", TASKS, {"json": {"request": {"prompt": "x"}}}, (422, "missing_member", "kind")),
    ("POST", TASKS, {"json": {"kind": "image"}}, (422, "missing_member", "request")),
    ("POST", TASKS, {"json": {"kind": "video", "request": {}}}, (422, "unknown_kind", "kind")),
    ("POST", TASKS, {"json": {"kind": "image", "request": 7}}, (422, "wrong_type", "request")),
    (
        "POST",
        TASKS,
        {"json": {"kind": "image", "request": {"prompt": "x", "steps": 0}}},
        (422, "out_of_range", "request.steps"),
    ),
    (
        "POST",
        TASKS,
        {"json": {"kind": "image", "request": {"prompt": "x", "model": "nope"}}},
        (422, "unknown_model", "request.model"),
    ),
    (
        "POST",
        TASKS,
        {"json": {"kind": "speech", "request": {"artifact": "upload-nope"}}},
        (422, "unknown_artifact", "request.artifact"),
    ),
    (
        "PUT",
        f"{TASKS}/NOT-AN-ID",
        {"json": {"kind": "image", "request": {"prompt": "x"}}},
        (422, "invalid_id", "task_id"),
    ),
    (
        "PUT",
        f"{TASKS}/{UNKNOWN}",
        {"json": {"kind": "image", "request": {"prompt": "x"}}, "headers": {"idempotency-key": "k"}},
        (422, "conflicting_members", "Idempotency-Key"),
    ),
    ("POST", f"{TASKS}/{UNKNOWN}/replay", {}, (404, "unknown_task", None)),
    ("GET", "/api/v1/nothing", {}, (404, "unknown_route", None)),
    ("GET", "/", {}, (404, "unknown_route", None)),
    ("GET", IMAGE, {}, (405, "method_not_allowed", None)),
    ("GET", f"{TASKS}/{UNKNOWN}", {}, (404, "unknown_task", None)),
    ("GET", f"{TASKS}?task_id={UNKNOWN}", {}, (404, "unknown_task", None)),
    ("GET", f"{TASKS}/nope", {}, (422, "invalid_id", "task_id")),
    ("GET", f"{TASKS}/{UNKNOWN.upper().replace('0', 'A')}", {}, (422, "invalid_id", "task_id")),
    ("GET", f"{TASKS}?limit=0", {}, (422, "out_of_range", "limit")),
    ("GET", f"{TASKS}?limit=x", {}, (422, "wrong_type", "limit")),
    ("GET", f"{TASKS}?cursor=x", {}, (422, "out_of_range", "cursor")),
    ("GET", f"{TASKS}?status=gone", {}, (422, "out_of_range", "status")),
    ("GET", f"{TASKS}?kind=video", {}, (422, "out_of_range", "kind")),
    ("GET", f"{TASKS}?colour=red", {}, (422, "unknown_member", "colour")),
    ("GET", f"{TASKS}/{UNKNOWN}?wait=90", {}, (422, "out_of_range", "wait")),
    ("GET", f"{TASKS}/{UNKNOWN}/events", {}, (404, "unknown_task", None)),
    ("GET", "/api/v1/events?last_event_id=x", {}, (422, "wrong_type", "last_event_id")),
    ("GET", f"{TASKS}/{UNKNOWN}/result", {}, (404, "unknown_task", None)),
    ("POST", f"{TASKS}/{UNKNOWN}/cancel", {}, (404, "unknown_task", None)),
    ("DELETE", f"{TASKS}/{UNKNOWN}", {}, (404, "unknown_task", None)),
    ("POST", f"{TASKS}/{UNKNOWN}/cancel", {"json": {"why": 1}}, (422, "unknown_member", "why")),
    ("GET", "/api/images/nothing", {}, (404, "no_such_artifact", None)),
    ("GET", f"/api/images/{UNKNOWN}-1-0", {}, (404, "no_such_artifact", None)),
]


async def test_every_refusal_names_its_code_and_member_and_stores_nothing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        wrong = []
        for method, path, more, expected in REFUSALS:
            reply = await rig.ask(method, path, **more)
            if (found := reply.refusal()) != expected:
                wrong.append((method, path, found, expected))
        assert wrong == []
        assert await rig.stored_tasks() == 0


async def test_202_says_where_the_task_is_and_it_is_in_the_log(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with running(settings_for(nats_server, tmp_path)) as rig:
        reply = await rig.ask("POST", IMAGE, json={"prompt": "fox"}, headers={"traceparent": trace})
        assert reply.status == 202
        task_id = reply.json["task_id"]
        assert reply.headers["location"] == f"/api/v1/tasks/{task_id}"
        assert reply.headers["retry-after"] == "1"
        assert reply.json["status"] == "QUEUED"
        found = await rig.tasklog.lookup(task_id)
        assert found.last == int(reply.headers["taskfold-sequence"])
        assert found.address
        assert found.address.lane in await lane_depths(rig.bus)
        messages = await rig.bus.gather(
            "$JS.API.DIRECT.GET.TASKS", b'{"multi_last":["%s"]}' % any_guard(task_id).encode()
        )
        assert (messages[0].headers or {})[envelope.TRACEPARENT] == trace


async def test_a_model_is_taken_once_a_backend_has_it(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        early = await rig.ask("POST", IMAGE, json={"prompt": "x", "model": "qwen-image"})
        assert early.refusal() == (422, "unknown_model", "model")
        assert "no image model is known yet" in early.json["detail"]
        await rig.know_model(Kind.IMAGE, "Qwen/Qwen-Image", "sd15")
        late = await rig.ask("POST", IMAGE, json={"prompt": "x", "model": "nope"})
        assert late.json["allowed"] == ["Qwen/Qwen-Image", "sd15"]
        task_id = await rig.submit(model="qwen/qwen-image")
        found = await rig.tasklog.lookup(task_id)
        assert found.address
        assert found.address.lane.model == "qwen-qwen-image"


async def test_a_hundred_at_once_with_one_key_make_one_task(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        replies = await asyncio.gather(
            *(
                rig.ask("POST", IMAGE, json={"prompt": "fox"}, headers={"idempotency-key": "one"})
                for _ in range(100)
            )
        )
        assert Counter(reply.status for reply in replies) == {202: 100}
        assert {reply.json["task_id"] for reply in replies} == {derived_task_id("default", "one")}
        assert sum("idempotency-replayed" not in reply.headers for reply in replies) == 1
        assert await rig.stored_tasks() == 1


async def test_a_key_with_another_body_is_refused(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        key = {"idempotency-key": "k"}
        first = await rig.ask("POST", IMAGE, json={"prompt": "fox"}, headers=key)
        other = await rig.ask("POST", IMAGE, json={"prompt": "dog"}, headers=key)
        assert other.refusal() == (422, "idempotency_key_reused", None)
        assert other.json["task_id"] == first.json["task_id"]
        elsewhere = await rig.ask("POST", IMAGE, json={"prompt": "fox", "priority": "high"}, headers=key)
        assert elsewhere.refusal()[1] == "idempotency_key_reused"
        assert await rig.stored_tasks() == 1


async def test_put_names_its_task_once(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        body = {"kind": "image", "request": {"prompt": "fox"}}
        path = f"{TASKS}/{UNKNOWN}"
        first, again = await rig.ask("PUT", path, json=body), await rig.ask("PUT", path, json=body)
        assert (first.status, again.status) == (202, 202)
        assert first.json["task_id"] == again.json["task_id"] == UNKNOWN
        assert again.headers["idempotency-replayed"] == "true"
        other = await rig.ask("PUT", path, json={**body, "priority": "low"})
        assert other.refusal() == (409, "task_exists", None)


@pytest.mark.parametrize("projected", [True, False])
async def test_a_full_queue_takes_exactly_its_limit_in_a_burst(
    nats_server: NatsServer, tmp_path: Path, *, projected: bool
) -> None:
    settings = settings_for(nats_server, tmp_path, queue_limit=20)
    async with running(settings, projected=projected) as rig:
        replies = await asyncio.gather(
            *(rig.ask("POST", IMAGE, json={"prompt": str(number)}) for number in range(100))
        )
        taken = [reply for reply in replies if reply.status == 202]
        refused = [reply for reply in replies if reply.status != 202]
        assert len(taken) == 20 == await rig.stored_tasks()
        assert {reply.refusal() for reply in refused} == {(503, "queue_full", None)}
        assert all(int(reply.headers["retry-after"]) > 0 for reply in refused)


async def test_a_full_queue_knows_the_tasks_it_has_and_takes_more_when_one_starts(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path, queue_limit=1)) as rig:
        key = {"idempotency-key": "k"}
        first = await rig.ask("POST", IMAGE, json={"prompt": "fox"}, headers=key)
        assert (await rig.ask("POST", IMAGE, json={"prompt": "dog"})).status == 503
        again = await rig.ask("POST", IMAGE, json={"prompt": "fox"}, headers=key)
        assert (again.status, again.json["task_id"]) == (202, first.json["task_id"])
        await rig.start(first.json["task_id"])

        async def taken() -> bool:
            return (await rig.ask("POST", IMAGE, json={"prompt": "dog"})).status == 202

        await eventually(taken)


async def test_a_delayed_task_waits_and_is_cancelled_with_its_schedule(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        reply = await rig.ask("POST", IMAGE, json={"prompt": "fox", "delay_s": 3600})
        task_id = reply.json["task_id"]
        assert reply.json["status"] == "SCHEDULED"
        assert (await rig.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "SCHEDULED"
        assert await schedules(rig) == 1
        cancelled = await rig.ask("POST", f"{TASKS}/{task_id}/cancel", json={"reason": "no"})
        assert (cancelled.status, cancelled.json["outcome"]) == (200, "CANCELLED")
        assert await schedules(rig) == 0
        assert (await rig.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "CANCELLED"


async def test_a_short_delay_ends_in_the_queue(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit(delay_s=0.3)

        async def queued() -> bool:
            return bool((await rig.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "QUEUED")

        await eventually(queued)


async def test_a_moment_that_is_past_is_now(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        past = envelope.timestamp(clock.now() - timedelta(days=1))
        reply = await rig.ask("POST", IMAGE, json={"prompt": "fox", "not_before": past})
        assert reply.json["status"] == "QUEUED"


async def test_prefer_wait_gives_the_finished_task(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        path, body = f"{TASKS}/{UNKNOWN}", {"kind": "image", "request": {"prompt": "fox"}}
        asked = asyncio.ensure_future(rig.ask("PUT", path, json=body, headers={"prefer": "wait=30"}))

        async def there() -> bool:
            return (await rig.ask("GET", path)).status == 200

        await eventually(there)
        await rig.start(UNKNOWN)  # type: ignore[arg-type]  # an id as users spell it
        await rig.finish(UNKNOWN)  # type: ignore[arg-type]  # as above
        reply: Reply = await asked
        assert (reply.status, reply.json["status"]) == (200, "DONE")
        assert reply.headers["preference-applied"] == "wait=30"
        assert reply.headers["location"] == path


async def test_prefer_that_is_over_is_202(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        reply = await rig.ask("POST", IMAGE, json={"prompt": "x"}, headers={"prefer": "wait=0"})
        assert reply.status == 202
        assert "preference-applied" not in reply.headers
        reply = await rig.ask("POST", IMAGE, json={"prompt": "x"}, headers={"prefer": "respond-async"})
        assert (reply.status, reply.headers["preference-applied"]) == (202, "respond-async")


async def test_a_tenant_named_by_a_trusted_gateway_has_keys_of_its_own(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path, trust_tenant_header=True)) as rig:
        ids = set()
        for tenant in ("a", "b"):
            headers = {"taskfold-tenant": tenant, "idempotency-key": "k"}
            reply = await rig.ask("POST", IMAGE, json={"prompt": "x"}, headers=headers)
            ids.add(reply.json["task_id"])
        assert len(ids) == 2
        wrong = await rig.ask("POST", IMAGE, json={"prompt": "x"}, headers={"taskfold-tenant": "A b"})
        assert wrong.refusal() == (422, "out_of_range", "Taskfold-Tenant")


async def test_the_two_lanes_of_a_tenant_fill_evenly(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await asyncio.gather(*(rig.submit(prompt=str(number)) for number in range(20)))
        depths = [depth.waiting for depth in (await lane_depths(rig.bus)).values()]
        assert depths == [10, 10]


async def schedules(rig: Rig) -> int:
    info = await rig.bus.api("STREAM.INFO.TASKS", {"subjects_filter": "sched.>"})
    return len(info["state"].get("subjects") or {})
