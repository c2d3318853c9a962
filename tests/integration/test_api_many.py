"""Filters, and what acts on many tasks: cancelling, replaying, redriving."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import Code
from schemas.events import TaskError, TaskFailed, TaskStarted
from schemas.ids import BackendId, TaskId
from schemas.requests import Kind
from services.api import cancelling_many, many, redriving
from tests.api import Rig, eventually, form, running, settings_for, wav
from tests.nats import NatsServer

TASKS = "/api/v1/tasks"
CANCEL, REDRIVE = f"{TASKS}/cancel", f"{TASKS}/redrive"
UNKNOWN = "01999999-0000-7000-8000-000000000000"


async def listed(rig: Rig, query: str) -> list[TaskId]:
    reply = await rig.ask("GET", f"{TASKS}?{query}")
    assert reply.status == 200, reply.body
    return [task["task_id"] for task in reply.json["tasks"]]


async def documents(rig: Rig, query: str, limit: int = 50) -> AsyncIterator[Any]:  # Any: JSON
    """Give the documents of all pages of a list."""
    cursor = ""
    while True:
        page = (await rig.ask("GET", f"{TASKS}?{query}&limit={limit}{cursor}")).json
        for task in page["tasks"]:
            yield task
        if page["next"] is None:
            return
        cursor = f"&cursor={page['next']}"


async def projected(rig: Rig, *ids: TaskId, status: str = "FAILED") -> None:
    """Wait until the read model, from which lists and actions select, has these in this status."""

    async def there() -> bool:
        return set(ids) <= set(await listed(rig, f"status={status}&limit=200"))

    await eventually(there)


async def failed(rig: Rig, code: str = "backend_oom", **body: Any) -> TaskId:  # Any: JSON
    task_id = await rig.submit(**body)
    await rig.start(task_id)
    ended = await rig.append(task_id, TaskFailed(error=TaskError(code=code, message="it broke")))
    # Once shown, it is shown so from then on.
    await rig.ask("GET", f"{TASKS}/{task_id}", headers={"taskfold-sequence": str(ended)})
    return task_id


async def document(rig: Rig, task_id: TaskId) -> Any:  # Any: JSON
    return (await rig.ask("GET", f"{TASKS}/{task_id}")).json


async def act(rig: Rig, path: str, **body: Any) -> Any:  # Any: JSON
    reply = await rig.ask("POST", path, json=body)
    assert reply.status == 200, reply.body
    return reply.json


async def test_every_member_of_a_filter_selects(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path, trust_tenant_header=True)) as rig:
        await rig.know_model(Kind.IMAGE, "Qwen/Qwen-Image")
        body = {"user": "ada", "tags": ["zoo", "a b"], "priority": "high", "model": "Qwen/Qwen-Image"}
        headers = {"taskfold-tenant": "acme"}
        reply = await rig.ask("POST", "/api/v1/image/async", json={"prompt": "x", **body}, headers=headers)
        wanted = TaskId(reply.json["task_id"])
        await rig.append(wanted, TaskStarted(attempt=1, backend=BackendId("image-2"), dispatcher="test"))
        await rig.append(wanted, TaskFailed(error=TaskError(code="boom", message="it broke")))
        other = await rig.submit(user="bob", tags=["farm"])
        await projected(rig, wanted)
        await projected(rig, other, status="QUEUED")
        shown = await document(rig, wanted)
        finds = [
            "user=ada",
            "tag=zoo",
            "tag=a%20b",
            "tenant=acme",
            "priority=high",
            "backend=image-2",
            "model=Qwen/Qwen-Image",
            "model=qwen-qwen-image",
            "error=boom",
            "status=FAILED",
            "status=expired,failed",
            "kind=image&status=FAILED&user=ada&tag=zoo&error=boom",
            f"finished_after={shown['finished_at']}",
            f"submitted_before={(await document(rig, other))['submitted_at']}",
        ]
        for query in finds:
            assert await listed(rig, query) == [wanted], query
        for query in ("user=carl", "tag=zo", "error=boo", "backend=image-1", "tag=zoo&status=QUEUED"):
            assert await listed(rig, query) == [], query
        assert await listed(rig, f"submitted_after={shown['submitted_at']}") == [other, wanted]
        assert await listed(rig, "model=any") == [other]
        assert await listed(rig, f"finished_before={shown['finished_at']}") == []


async def test_pages_of_a_filtered_list_leave_nothing_out(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        ids = [await rig.submit(tags=["zoo"] if number % 2 else []) for number in range(10)]
        await projected(rig, *ids, status="QUEUED")
        seen = [task["task_id"] async for task in documents(rig, "tag=zoo", limit=2)]
        assert seen == ids[1::2][::-1]


REFUSALS: list[tuple[str, dict[str, Any], tuple[int, str, str | None]]] = [
    (CANCEL, {}, (422, "missing_member", "all")),
    (CANCEL, {"reason": "oops"}, (422, "missing_member", "all")),
    (CANCEL, {"all": "yes"}, (422, "wrong_type", "all")),
    (CANCEL, {"all": False}, (422, "missing_member", "all")),
    (CANCEL, {"all": True, "tag": "a"}, (422, "conflicting_members", "all")),
    (CANCEL, {"colour": "red"}, (422, "unknown_member", "colour")),
    (CANCEL, {"status": "DONE"}, (422, "out_of_range", "status")),
    (CANCEL, {"tag": 7}, (422, "wrong_type", "tag")),
    (CANCEL, {"submitted_after": "yesterday"}, (422, "out_of_range", "submitted_after")),
    (CANCEL, {"all": True, "reason": 7}, (422, "wrong_type", "reason")),
    (REDRIVE, {}, (422, "missing_member", "all")),
    (REDRIVE, {"status": "DONE"}, (422, "out_of_range", "status")),
    (REDRIVE, {"all": True, "change": []}, (422, "wrong_type", "change")),
    (REDRIVE, {"all": True, "change": {"colour": "red"}}, (422, "unknown_member", "colour")),
    (REDRIVE, {"all": True, "change": {"max_attempts": 0}}, (422, "out_of_range", "max_attempts")),
    (
        REDRIVE,
        {"all": True, "change": {"request": {"width": 7}}},
        (422, "out_of_range", "change.request.width"),
    ),
    (f"{TASKS}/{UNKNOWN}/replay", {}, (404, "unknown_task", None)),
    (f"{TASKS}/nope/replay", {}, (422, "invalid_id", "task_id")),
]


async def test_a_slip_is_refused_and_changes_nothing(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        broken, waiting = await failed(rig), await rig.submit()
        await projected(rig, broken)
        for path, body, expected in REFUSALS:
            assert (await rig.ask("POST", path, json=body)).refusal() == expected, (path, body)
        assert (await rig.ask("GET", CANCEL)).refusal() == (405, Code.METHOD_NOT_ALLOWED, None)
        assert await rig.stored_tasks() == 2
        assert (await document(rig, waiting))["status"] == "QUEUED"


async def test_what_was_submitted_just_now_is_cancelled_and_nothing_else(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        done = await rig.submit(tags=["zoo"])
        await rig.start(done)
        await rig.finish(done)
        kept = await rig.submit(tags=["farm"])
        ids = [await rig.submit(tags=["zoo"]) for _ in range(50)]
        later = await rig.submit(tags=["zoo"], delay_s=3600)
        await rig.start(ids[7])
        answer = await act(rig, CANCEL, tag="zoo", reason="closed")

        assert set(answer["task_ids"]) == {*ids, later}
        assert [answer[name] for name in ("matched", "cancelled", "already_finished", "unchanged")] == [
            51,
            51,
            0,
            0,
        ]
        assert answer["more"] is False
        for task_id in (ids[0], ids[7], later):
            assert (await document(rig, task_id))["status"] == "CANCELLED"
        assert (await document(rig, kept))["status"] == "QUEUED"
        assert (await document(rig, done))["status"] == "DONE"
        events = (
            await rig.ask("GET", f"{TASKS}/{ids[0]}/events", headers={"accept": "application/json"})
        ).json
        assert events["events"][-1]["data"]["reason"] == "closed"
        again = await act(rig, CANCEL, tag="zoo")
        assert (again["matched"], again["more"]) == (0, False)
        assert (await act(rig, CANCEL, all=True))["task_ids"] == [kept]


async def test_one_call_cancels_so_many_and_says_that_there_are_more(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling_many, "MOST_CANCELLED", 3)
    async with running(settings_for(nats_server, tmp_path)) as rig:
        ids = [await rig.submit() for _ in range(5)]
        first = await act(rig, CANCEL, kind="image")
        second = await act(rig, CANCEL, kind="image")

        assert (sorted(first["task_ids"]), first["more"]) == (sorted(ids[:3]), True)
        assert (sorted(second["task_ids"]), second["more"]) == (sorted(ids[3:]), False)


async def test_a_cancel_that_breaks_off_says_how_far_it_came(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "AT_ONCE", 1)
    async with running(settings_for(nats_server, tmp_path, submit_timeout_s=0.5)) as rig:
        ids = [await rig.submit() for _ in range(100)]
        await projected(rig, *ids[:1], status="QUEUED")
        asking = asyncio.ensure_future(rig.ask("POST", CANCEL, json={"all": True}))

        async def begun() -> bool:
            return bool((await document(rig, ids[0]))["status"] == "CANCELLED")

        await eventually(begun)
        nats_server.kill()
        reply = await asking

        assert reply.status == 503, reply.body
        assert reply.json["code"] in (Code.NATS_AWAY, Code.OUTCOME_UNKNOWN)
        done = reply.json["done"]
        assert done["matched"] == 100
        assert 0 < done["cancelled"] < 100
        assert f"{done['cancelled']} of 100 tasks are cancelled" in reply.json["detail"]
        assert reply.headers["retry-after"]
        nats_server.start()

        async def rest() -> bool:
            reply = await rig.ask("POST", CANCEL, json={"all": True})
            return bool(reply.status == 200 and not reply.json["more"])

        await eventually(rest)
        for task_id in ids:
            assert (await document(rig, task_id))["status"] == "CANCELLED"


async def test_without_a_read_model_nothing_is_selected(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await rig.submit()
        for path in (CANCEL, REDRIVE):
            reply = await rig.ask("POST", path, json={"all": True})
            assert reply.refusal() == (503, Code.READ_MODEL_AWAY, None)


@pytest.mark.parametrize("with_projector", [True, False])
async def test_a_replay_is_the_same_again_under_a_new_id(
    nats_server: NatsServer, tmp_path: Path, *, with_projector: bool
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=with_projector) as rig:
        origin = await failed(
            rig, user="ada", tags=["zoo"], metadata={"order": 7}, priority="high", max_attempts=5, steps=9
        )
        reply = await rig.ask("POST", f"{TASKS}/{origin}/replay")
        assert reply.status == 202, reply.body
        task_id = TaskId(reply.json["task_id"])
        assert reply.headers["location"] == f"{TASKS}/{task_id}"
        before, after = await document(rig, origin), await document(rig, task_id)

        assert after["origin"] == origin
        assert (after["status"], before["status"]) == ("QUEUED", "FAILED")
        for name in ("request", "user", "tags", "metadata", "priority", "tenant", "kind"):
            assert after[name] == before[name], name
        task = (await rig.tasklog.lookup(task_id)).task
        assert task.submission is not None
        assert (task.submission.max_attempts, task.submission.origin) == (5, origin)


async def test_a_replay_is_changed_where_it_says_so(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await rig.know_model(Kind.IMAGE, "sdxl")
        origin = await rig.submit(seed=7, user="ada", tags=["zoo"], deadline_s=90_000)
        changes = {
            "request": {"prompt": "an owl", "model": "sdxl", "seed": None},
            "backend": "image-9",
            "user": None,
            "tags": ["night"],
            "delay_s": 3600,
        }
        reply = await rig.ask("POST", f"{TASKS}/{origin}/replay", json=changes)
        assert reply.status == 202, reply.body
        task_id = TaskId(reply.json["task_id"])
        after = await document(rig, task_id)

        assert (after["status"], after["user"], after["tags"]) == ("SCHEDULED", None, ["night"])
        assert (after["request"]["prompt"], after["request"]["model"]) == ("an owl", "sdxl")
        assert after["request"]["seed"] not in (None, 7)
        task = (await rig.tasklog.lookup(task_id)).task
        assert task.submission is not None
        assert task.submission.backend == "image-9"
        assert task.submission.not_before is not None
        assert task.submission.deadline is not None
        assert (task.submission.deadline - task.submission.not_before).total_seconds() == 90_000


async def test_a_replay_is_checked_like_any_submission(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await rig.know_model(Kind.IMAGE, "sdxl")
        path = f"{TASKS}/{await rig.submit()}/replay"
        cases: list[tuple[dict[str, Any], tuple[int, str, str | None]]] = [
            ({"backend": "image-7"}, (422, "out_of_range", "backend")),
            ({"request": {"model": "nope"}}, (422, "unknown_model", "request.model")),
            ({"request": {"width": 7}}, (422, "out_of_range", "request.width")),
            ({"request": {"prompt": None}}, (422, "missing_member", "request.prompt")),
            ({"request": []}, (422, "wrong_type", "request")),
            ({"kind": "speech"}, (422, "unknown_member", "kind")),
            ({"priority": "urgent"}, (422, "out_of_range", "priority")),
        ]
        for body, expected in cases:
            assert (await rig.ask("POST", path, json=body)).refusal() == expected, body
        assert (await rig.ask("POST", path, json={"backend": "image-7"})).json["allowed"] == ["image-9"]
        assert await rig.stored_tasks() == 1


async def test_a_replay_with_a_key_is_made_once(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        first, second = await rig.submit(), await rig.submit()
        key = {"idempotency-key": "again"}
        one = await rig.ask("POST", f"{TASKS}/{first}/replay", headers=key)
        same = await rig.ask("POST", f"{TASKS}/{first}/replay", headers=key)
        changed = await rig.ask("POST", f"{TASKS}/{first}/replay", headers=key, json={"user": "ada"})
        another = await rig.ask("POST", f"{TASKS}/{second}/replay", headers=key)

        assert one.json["task_id"] == same.json["task_id"]
        assert same.headers["idempotency-replayed"] == "true"
        for refused in (changed, another):
            assert refused.refusal() == (422, Code.IDEMPOTENCY_KEY_REUSED, None)


async def test_a_transcription_is_replayed_while_its_recording_is_there(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        sound = wav()
        made = await rig.ask("POST", "/api/v1/speech/async", data=form(file=sound))
        origin = TaskId(made.json["task_id"])
        reply = await rig.ask("POST", f"{TASKS}/{origin}/replay", json={"request": {"language": "de"}})
        assert reply.status == 202, reply.body
        for task_id in (origin, TaskId(reply.json["task_id"])):
            submission = (await rig.tasklog.lookup(task_id)).task.submission
            assert getattr(submission, "audio_bytes", 0) == len(sound)
        recording = (await document(rig, origin))["request"]["artifact"]
        await rig.bus.api("STREAM.PURGE.OBJ_ARTIFACTS")
        reply = await rig.ask("POST", f"{TASKS}/{origin}/replay")
        assert reply.refusal() == (422, Code.UNKNOWN_ARTIFACT, "request.artifact"), recording


async def test_a_redrive_makes_each_dead_letter_again_once(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        dead = [await failed(rig, tags=["zoo"]) for _ in range(5)]
        other = await failed(rig, code="bad_prompt")
        waiting = await rig.submit()
        first = await act(rig, REDRIVE, error="backend_oom", change={"request": {"steps": 4}})

        assert [first[name] for name in ("matched", "made", "already_redriven", "refused")] == [5, 5, 0, 0]
        assert {one["origin"] for one in first["tasks"]} == set(dead)
        for one in first["tasks"]:
            again = await document(rig, one["task_id"])
            assert (again["origin"], again["status"], again["tags"]) == (one["origin"], "QUEUED", ["zoo"])
            assert again["request"]["steps"] == 4
        second = await act(rig, REDRIVE, error="backend_oom")
        assert (second["matched"], second["made"]) == (0, 0)

        successor = TaskId(first["tasks"][0]["task_id"])
        await rig.start(successor)
        await rig.append(successor, TaskFailed(error=TaskError(code="backend_oom", message="again")))
        third = await act(rig, REDRIVE, all=True)
        assert {one["origin"] for one in third["tasks"]} == {successor, other}
        assert (await document(rig, waiting))["status"] == "QUEUED"


async def test_two_redrives_at_once_make_each_task_once(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        dead = [await failed(rig) for _ in range(10)]
        answers = await asyncio.gather(*(act(rig, REDRIVE, kind="image") for _ in range(3)))

        assert sum(answer["made"] for answer in answers) == 10
        assert {one["origin"] for answer in answers for one in answer["tasks"]} == set(dead)
        for answer in answers:
            assert answer["made"] + answer["already_redriven"] == answer["matched"]
        assert await rig.stored_tasks() == 20


async def test_a_replayed_task_is_not_redriven(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        dead = await failed(rig)
        await rig.ask("POST", f"{TASKS}/{dead}/replay")

        assert (await act(rig, REDRIVE, all=True))["matched"] == 0


async def test_a_redrive_stops_where_the_queue_is_full(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path, queue_limit=4)) as rig:
        for _ in range(6):
            await failed(rig)
        first = await act(rig, REDRIVE, all=True)
        assert (first["matched"], first["made"], first["more"], first["stopped"]) == (
            6,
            4,
            True,
            "queue_full",
        )
        full = await rig.ask("POST", REDRIVE, json={"all": True})
        assert full.refusal() == (503, Code.QUEUE_FULL, None)
        assert full.json["done"] == {"matched": 2, "made": 0}
        await act(rig, CANCEL, all=True)
        rest = await act(rig, REDRIVE, all=True)
        assert (rest["made"], rest["more"], rest["stopped"]) == (2, False, None)


async def test_a_redrive_that_breaks_off_is_gone_on_with_and_makes_each_task_once(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "AT_ONCE", 1)
    async with running(settings_for(nats_server, tmp_path, submit_timeout_s=0.5)) as rig:
        dead = [await failed(rig) for _ in range(60)]
        asking = asyncio.ensure_future(rig.ask("POST", REDRIVE, json={"all": True}))

        async def begun() -> bool:
            return await rig.stored_tasks() > len(dead)

        await eventually(begun)
        nats_server.kill()
        reply = await asking
        assert reply.status == 503, reply.body
        assert 0 < reply.json["done"]["made"] < reply.json["done"]["matched"] == len(dead)
        nats_server.start()

        async def rest() -> bool:
            reply = await rig.ask("POST", REDRIVE, json={"all": True})
            return bool(reply.status == 200 and not reply.json["more"])

        await eventually(rest)

        async def each_once() -> bool:
            made = [task["origin"] async for task in documents(rig, "status=QUEUED")]
            return sorted(made) == sorted(dead)

        await eventually(each_once)
        assert await rig.stored_tasks() == 2 * len(dead)


async def test_one_call_redrives_so_many_and_says_that_there_are_more(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redriving, "MOST_REDRIVEN", 2)
    async with running(settings_for(nats_server, tmp_path)) as rig:
        dead = [await failed(rig) for _ in range(3)]
        first, second = await act(rig, REDRIVE, all=True), await act(rig, REDRIVE, all=True)

        assert ({one["origin"] for one in first["tasks"]}, first["more"]) == (set(dead[:2]), True)
        assert ([one["origin"] for one in second["tasks"]], second["more"]) == (dead[2:], False)


async def test_what_cannot_be_made_again_is_named_and_the_rest_is_made(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await rig.know_model(Kind.IMAGE, "sdxl")
        gone = await failed(rig, model="sdxl")
        good = await failed(rig)
        await rig.know_model(Kind.IMAGE, "flux")
        answer = await act(rig, REDRIVE, all=True)

        assert [one["origin"] for one in answer["tasks"]] == [good]
        assert [(one["origin"], one["code"]) for one in answer["refusals"]] == [(gone, "unknown_model")]
        alone = await rig.ask("POST", REDRIVE, json={"all": True})
        assert alone.refusal()[:2] == (422, Code.UNKNOWN_MODEL)


async def test_cancelled_and_expired_tasks_are_redriven_where_their_status_is_named(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit(tags=["zoo"])
        await act(rig, CANCEL, tag="zoo")
        assert (await act(rig, REDRIVE, tag="zoo"))["matched"] == 0
        answer = await act(rig, REDRIVE, tag="zoo", status="CANCELLED,EXPIRED")
        assert [one["origin"] for one in answer["tasks"]] == [task_id]


async def test_one_tenant_s_full_queue_is_no_other_s(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = settings_for(nats_server, tmp_path, tenant_queue_limit=2, trust_tenant_header=True)
    async with running(settings) as rig:

        async def submit(tenant: str) -> tuple[int, str | None]:
            reply = await rig.ask(
                "POST", "/api/v1/image/async", json={"prompt": "x"}, headers={"taskfold-tenant": tenant}
            )
            if reply.status == 429:
                assert reply.refusal() == (429, Code.TENANT_QUEUE_FULL, None)
            return reply.status, reply.headers.get("retry-after")

        assert [(await submit("ada"))[0] for _ in range(4)] == [202, 202, 429, 429]
        assert (await submit("ada"))[1] is not None
        assert (await submit("bob"))[0] == 202
        await act(rig, CANCEL, tenant="ada")

        async def room() -> bool:
            return (await submit("ada"))[0] == 202

        await eventually(room)
