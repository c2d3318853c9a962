"""Tasks that are submitted together: all or nothing, counted, cancelled as one."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.ids import TaskId, batch_task_id, derived_batch_id
from schemas.intake import MAX_TOGETHER, MAX_TOGETHER_MIB
from services import clock
from services.bus.streams import lane_depths
from tests import nats
from tests.api import Json, Reply, Rig, eventually, running, settings_for, wav
from tests.nats import NatsServer
from tests.proxy import proxied

BATCH = "/api/v1/tasks/batch"
BATCHES = "/api/v1/batches"
UNKNOWN = "01999999-0000-7000-8000-000000000000"
AS_JSON = {"content-type": "application/json"}
NONE = dict.fromkeys(
    ("SCHEDULED", "QUEUED", "RUNNING", "RETRYING", "DONE", "FAILED", "CANCELLED", "EXPIRED"), 0
)


def image(prompt: str = "a red fox", **common: Any) -> Json:  # Any: JSON
    return {"kind": "image", "request": {"prompt": prompt}, **common}


def images(count: int, **common: Any) -> list[Json]:  # Any: JSON
    return [image(f"fox {number}", **common) for number in range(count)]


async def submit(rig: Rig, tasks: list[Json], key: str | None = None, **more: Any) -> Reply:  # Any: as ask
    headers = {} if key is None else {"idempotency-key": key}
    return await rig.ask("POST", BATCH, json={"tasks": tasks}, headers=headers, **more)


async def accepted(rig: Rig, tasks: list[Json], key: str | None = None) -> Json:
    reply = await submit(rig, tasks, key)
    assert reply.status == 202, reply.body
    found: Json = reply.json
    return found


async def shown(rig: Rig, batch: Json, query: str = "") -> Json:
    reply = await rig.ask("GET", batch["status_url"] + query)
    assert reply.status == 200, reply.body
    found: Json = reply.json
    return found


async def stored(rig: Rig) -> int:
    """How many messages the log has."""
    info = await rig.bus.api("STREAM.INFO.TASKS")
    count: int = info["state"]["messages"]
    return count


async def test_a_batch_is_accepted_and_its_tasks_are_in_the_order_of_the_body(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        upload = await rig.ask("PUT", f"/api/v1/uploads/{clock.new_task_id()}", data=wav())
        assert upload.status == 201, upload.body
        speech = {"kind": "speech", "request": {"artifact": upload.json["artifact_id"]}}
        tasks = [image("one", user="ada"), image("two", delay_s=3600, priority="high"), speech]
        reply = await submit(rig, tasks)
        batch = reply.json
        url = f"{BATCHES}/{batch['batch_id']}"
        document = await shown(rig, batch)
        asked = [(await rig.ask("GET", f"/api/v1/tasks/{one}")).json for one in batch["task_ids"]]
        listed = (await rig.ask("GET", batch["tasks_url"])).json["tasks"]

    assert reply.status == 202
    assert reply.headers["location"] == batch["status_url"] == url
    assert reply.headers["retry-after"] == "1"
    assert batch["size"] == 3
    assert (batch["events_url"], batch["cancel_url"]) == (f"{url}/events", f"{url}/cancel")
    assert [task["request"].get("prompt") for task in asked[:2]] == ["one", "two"]
    assert [task["status"] for task in asked] == ["QUEUED", "SCHEDULED", "QUEUED"]
    assert {task["batch"] for task in asked} == {batch["batch_id"]}
    assert [task["task_id"] for task in reversed(listed)] == batch["task_ids"]
    assert int(reply.headers["taskfold-sequence"]) == asked[-1]["sequence"]
    assert document == {
        "batch_id": batch["batch_id"],
        "tenant": "default",
        "user": "ada",
        "size": 3,
        "counts": {**NONE, "QUEUED": 2, "SCHEDULED": 1},
        "submitted_at": asked[0]["submitted_at"],
        "finished_at": None,
        "links": {
            "self": url,
            "tasks": f"/api/v1/tasks?batch={batch['batch_id']}",
            "events": f"{url}/events",
            "cancel": f"{url}/cancel",
        },
        "sequence": asked[-1]["sequence"],
    }


WRONG: list[tuple[Any, tuple[int, str, str | None]]] = [
    ({"tasks": []}, (422, "out_of_range", "tasks")),
    ({"tasks": images(MAX_TOGETHER + 1)}, (422, "out_of_range", "tasks")),
    ({"tasks": image()}, (422, "wrong_type", "tasks")),
    ({}, (422, "missing_member", "tasks")),
    ([image()], (400, "malformed", None)),
    ({"tasks": [image()], "defaults": {}}, (422, "unknown_member", "defaults")),
    ({"tasks": [image(), 7]}, (400, "malformed", "tasks[1]")),
    ({"tasks": [image(), {"kind": "image"}]}, (422, "missing_member", "tasks[1].request")),
    ({"tasks": [image(), image(priority="now")]}, (422, "out_of_range", "tasks[1].priority")),
    ({"tasks": [image(), image("x" * 300_000)]}, (413, "body_too_large", "tasks[1]")),
    ({"tasks": [*images(70), image(delay_s=20 * 86_400)]}, (422, "out_of_range", "tasks[70].delay_s")),
    ({"tasks": [image(), image(backend="nope")]}, (422, "out_of_range", "tasks[1].backend")),
    (
        {"tasks": [*images(17), {"kind": "image", "request": {"prompt": "x", "steps": 0}}, image("")]},
        (422, "out_of_range", "tasks[17].request.steps"),
    ),
    (
        {"tasks": [*images(40), {"kind": "image", "request": {"prompt": "x", "model": "nope"}}]},
        (422, "unknown_model", "tasks[40].request.model"),
    ),
    (
        {"tasks": [image(), {"kind": "speech", "request": {"artifact": "upload-nope"}}]},
        (422, "unknown_artifact", "tasks[1].request.artifact"),
    ),
]


async def blanks(count: int) -> AsyncIterator[bytes]:
    """Give so many, in pieces: how many there are is seen only as they come."""
    for _ in range(count // 2**16):
        yield b" " * 2**16
    yield b" " * (count % 2**16)


async def test_what_is_wrong_of_one_is_told_by_its_place_and_nothing_is_stored(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        for body, refusal in WRONG:
            assert (await rig.ask("POST", BATCH, json=body)).refusal() == refusal
        large = await rig.ask("POST", BATCH, data=blanks(MAX_TOGETHER_MIB * 2**20 + 1), headers=AS_JSON)
        assert large.refusal() == (413, "body_too_large", None)
        assert large.json["detail"] == f"the body has at most {MAX_TOGETHER_MIB} MiB"
        assert await stored(rig) == 0


async def test_a_queue_takes_a_batch_whole_or_not_at_all(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path, queue_limit=5)) as rig:
        assert (await submit(rig, images(6))).refusal() == (503, "queue_full", None)
        assert await stored(rig) == 0
        both = await asyncio.gather(submit(rig, images(3)), submit(rig, images(3)))
        assert sorted(reply.status for reply in both) == [202, 503]
        await accepted(rig, images(2))
        assert (await submit(rig, images(1))).refusal() == (503, "queue_full", None)
        assert await rig.stored_tasks() == 5


async def test_the_bound_of_a_tenant_holds_for_a_batch(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = settings_for(nats_server, tmp_path, tenant_queue_limit=5)
    async with running(settings) as rig:
        refused = await submit(rig, images(6))
        assert refused.refusal() == (429, "tenant_queue_full", None)
        await accepted(rig, images(5))


async def test_a_thousand_come_at_once_and_lie_in_both_lanes(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        batch = await accepted(rig, images(MAX_TOGETHER))
        document = await shown(rig, batch)
        depths = await lane_depths(rig.bus)

    assert document["counts"] == {**NONE, "QUEUED": MAX_TOGETHER}
    assert [depth.waiting for depth in depths.values() if depth.waiting] == [500, 500]
    assert batch["task_ids"] == [batch_task_id(batch["batch_id"], n) for n in range(MAX_TOGETHER)]


async def test_a_thousand_delayed_ones_are_stored_and_fire(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        soon = (clock.now() + timedelta(seconds=4)).isoformat()
        batch = await accepted(rig, images(MAX_TOGETHER, not_before=soon))
        assert (await shown(rig, batch))["counts"] == {**NONE, "SCHEDULED": MAX_TOGETHER}

        async def fired() -> bool:
            return bool((await shown(rig, batch))["counts"]["QUEUED"] == MAX_TOGETHER)

        await eventually(fired)


async def test_a_server_that_takes_fewer_messages_at_once_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = nats.CONFIG.read_text(encoding="utf-8")
    own = tmp_path / "own.conf"
    own.write_text(shipped.replace("max_msgs: 2000", "max_msgs: 1000"), encoding="utf-8")
    monkeypatch.setattr(nats, "CONFIG", own)
    server = NatsServer(tmp_path / "nats")
    server.start()
    try:
        async with running(settings_for(server, tmp_path)) as rig:
            refused = await submit(rig, images(501, delay_s=3600), "k")
            assert refused.refusal() == (413, "batch_too_large", "tasks")
            assert "1002 messages" in refused.json["detail"]
            assert await stored(rig) == 0
            await accepted(rig, images(500, delay_s=3600), "k")
    finally:
        server.stop()


@pytest.mark.parametrize("projected", [True, False])
async def test_the_same_key_and_body_is_the_same_batch(
    nats_server: NatsServer, tmp_path: Path, *, projected: bool
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=projected) as rig:
        first = await submit(rig, images(3), "k")
        again = await submit(rig, images(3), "k")
        other = await submit(rig, [*images(2), image("another")], "k")
        fewer = await submit(rig, images(2), "k")
        assert first.json["batch_id"] == derived_batch_id("default", "k")
        assert again.json == first.json
        assert (again.status, again.headers["idempotency-replayed"]) == (202, "true")
        assert "idempotency-replayed" not in first.headers
        assert other.refusal() == fewer.refusal() == (422, "idempotency_key_reused", None)
        assert other.json["batch_id"] == first.json["batch_id"]
        assert await rig.stored_tasks() == 3


async def test_of_requests_with_one_key_at_the_same_time_one_makes_the_batch(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        replies = await asyncio.gather(*(submit(rig, images(100), "k") for _ in range(6)))
        assert {reply.status for reply in replies} == {202}
        assert len({reply.json["batch_id"] for reply in replies}) == 1
        assert await rig.stored_tasks() == 100


async def test_a_key_is_known_however_full_it_is(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path, queue_limit=3), projected=False) as rig:
        batch = await accepted(rig, images(3), "k")
        assert (await submit(rig, images(1))).refusal() == (503, "queue_full", None)
        assert (await accepted(rig, images(3), "k")) == batch


async def test_an_answer_that_is_lost_is_found_out(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as direct:
        async with proxied("127.0.0.1", nats_server.port) as proxy:
            url = f"nats://127.0.0.1:{proxy.port}"
            settings = replace(settings_for(nats_server, tmp_path / "other"), nats_url=url)
            async with running(settings, projected=False) as rig:
                dropped = proxy.drop_answer_to(b"submitted")
                batch = await accepted(rig, images(50))
                assert dropped.is_set()
        assert await direct.stored_tasks() == 50
        assert (await shown(direct, batch))["counts"]["QUEUED"] == 50


async def test_all_or_none_is_stored_when_the_server_is_killed_meanwhile(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path, queue_limit=100_000)) as rig:
        await accepted(rig, images(1))
        for number, pause_s in enumerate((0.02, 0.05, 0.08, 0.12)):
            key = f"k{number}"
            asked = asyncio.create_task(submit(rig, images(MAX_TOGETHER), key))
            await asyncio.sleep(pause_s)  # somewhere in the middle
            nats_server.kill()
            nats_server.start()
            first = await asked
            assert first.status == 202 or first.json["code"] in ("outcome_unknown", "nats_away"), first.body

            async def answers(key: str = key) -> bool:
                reply = await submit(rig, images(MAX_TOGETHER), key)
                return reply.status == 202

            await eventually(lambda: there(rig))
            assert (await rig.stored_tasks() - 1) % MAX_TOGETHER == 0
            await eventually(answers)
            assert await rig.stored_tasks() == 1 + (number + 1) * MAX_TOGETHER


async def there(rig: Rig) -> bool:
    return (await rig.ask("GET", "/readyz")).status == 200 and rig.bus.connected


async def test_nothing_is_promised_while_nats_is_away(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        batch = await accepted(rig, images(2))
        await shown(rig, batch)
        nats_server.kill()
        assert (await submit(rig, images(3), "k")).status == 503
        assert (await shown(rig, batch))["size"] == 2
        nats_server.start()

        async def accepts() -> bool:
            return (await submit(rig, images(3), "k")).status == 202

        await eventually(accepts)
        assert await rig.stored_tasks() == 5


async def test_a_batch_is_counted_to_its_end(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        batch = await accepted(rig, images(4))
        ids = [TaskId(one) for one in batch["task_ids"]]
        first = await rig.ask("GET", batch["status_url"])
        known = {"if-none-match": first.headers["etag"]}
        assert (await rig.ask("GET", batch["status_url"], headers=known)).status == 304
        assert (await rig.ask("GET", f"{batch['status_url']}?wait=0.05", headers=known)).status == 304
        changed = asyncio.create_task(rig.ask("GET", f"{batch['status_url']}?wait=20", headers=known))
        ended = asyncio.create_task(shown(rig, batch, "?wait=20"))
        await rig.start(ids[0])
        assert (await changed).json["counts"] == {**NONE, "RUNNING": 1, "QUEUED": 3}
        await rig.finish(ids[0])
        for task_id in ids[1:3]:
            await rig.start(task_id)
            await rig.fail(task_id)
        assert not ended.done()
        await rig.ask("POST", f"/api/v1/tasks/{ids[3]}/cancel")
        document = await ended
        last = (await rig.ask("GET", f"/api/v1/tasks/{ids[3]}")).json

    assert document["counts"] == {**NONE, "DONE": 1, "FAILED": 2, "CANCELLED": 1}
    assert document["finished_at"] == last["finished_at"]
    assert document["sequence"] == last["sequence"]


async def test_a_batch_is_cancelled_as_one(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        other = await rig.submit()
        batch = await accepted(rig, [*images(60), *images(40, delay_s=3600)])
        ids = [TaskId(one) for one in batch["task_ids"]]
        await rig.start(ids[0])
        await rig.finish(ids[0])
        reply = await rig.ask("POST", batch["cancel_url"], json={"reason": "not wanted"})
        document = await shown(rig, batch, "?wait=10")
        history = f"/api/v1/tasks/{ids[99]}/events"
        cancelled = (await rig.ask("GET", history, headers={"accept": "application/json"})).json
        again = await rig.ask("POST", batch["cancel_url"])
        assert (await rig.ask("GET", f"/api/v1/tasks/{other}")).json["status"] == "QUEUED"

    assert reply.status == 200, reply.body
    assert (reply.json["matched"], reply.json["cancelled"], reply.json["more"]) == (99, 99, False)
    assert again.json["cancelled"] == 0
    assert document["counts"] == {**NONE, "DONE": 1, "CANCELLED": 99}
    assert document["finished_at"] is not None
    assert cancelled["events"][-1]["data"]["reason"] == "not wanted"


async def test_a_batch_is_shown_from_the_log_where_the_read_model_lacks_it(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        other = settings_for(nats_server, tmp_path / "other")
        async with running(other, projected=False) as replica:
            batch = await accepted(rig, [*images(20), image(delay_s=3600)])
            await rig.start(batch["task_ids"][0])
            await rig.finish(batch["task_ids"][0])

            async def ended() -> bool:
                return bool((await shown(rig, batch))["counts"]["DONE"])

            await eventually(ended)
            projected = await shown(rig, batch)
            logged = await shown(replica, batch)
            unknown = await rig.ask("GET", f"{BATCHES}/{UNKNOWN}")
            nothing = await replica.ask("GET", f"{BATCHES}/{UNKNOWN}")

    assert projected["counts"] == {**NONE, "QUEUED": 19, "DONE": 1, "SCHEDULED": 1}
    assert logged == projected
    assert unknown.refusal() == (404, "unknown_batch", None)
    assert nothing.status == 503


async def test_what_is_no_batch_is_refused(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        for path in (task_id, UNKNOWN):
            assert (await rig.ask("GET", f"{BATCHES}/{path}")).refusal() == (404, "unknown_batch", None)
            cancel = await rig.ask("POST", f"{BATCHES}/{path}/cancel")
            assert cancel.refusal() == (404, "unknown_batch", None)
        assert (await rig.ask("GET", f"{BATCHES}/nope")).refusal() == (422, "invalid_id", "batch_id")
        assert (await rig.ask("GET", BATCH)).refusal() == (405, "method_not_allowed", None)


async def test_a_task_that_is_made_again_is_of_no_batch(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        batch = await accepted(rig, images(2))
        first, second = (TaskId(one) for one in batch["task_ids"])
        replayed = await rig.ask("POST", f"/api/v1/tasks/{first}/replay")
        await rig.start(second)
        await rig.fail(second)
        redriven = await rig.ask("POST", "/api/v1/tasks/redrive", json={"batch": batch["batch_id"]})
        assert redriven.json["made"] == 1
        for made, origin in ((replayed.json, first), (redriven.json["tasks"][0], second)):
            document = (await rig.ask("GET", f"/api/v1/tasks/{made['task_id']}")).json
            assert (document["batch"], document["origin"]) == (None, origin)
        assert (await shown(rig, batch))["counts"] == {**NONE, "QUEUED": 1, "FAILED": 1}


async def test_many_batches_at_the_same_time_are_all_stored(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    # The server takes 50 at a time, and how long its disk takes over them is not what is asked here.
    settings = settings_for(nats_server, tmp_path, queue_limit=100_000, submit_timeout_s=60.0)
    async with running(settings) as rig:
        replies = await asyncio.gather(*(submit(rig, images(20), f"k{n}") for n in range(80)))
        assert {(reply.status, reply.json.get("code")) for reply in replies} == {(202, None)}
        assert await rig.stored_tasks() == 1600
