"""How things stood: tasks and queues at a sequence and at a time, however they went on."""

from pathlib import Path

from schemas.ids import TaskId
from tests.api import Rig, running, settings_for
from tests.nats import NatsServer

TASKS = "/api/v1/tasks"
QUEUES = "/api/v1/queues"


async def reached(rig: Rig, sequence: int) -> None:
    """Wait until the read model has this."""
    reply = await rig.ask("GET", QUEUES, headers={"Taskfold-Sequence": str(sequence)})
    assert reply.status == 200, reply.body


async def lived(rig: Rig) -> tuple[TaskId, list[tuple[int, str]]]:
    """Let a task live, and say which status it had from which sequence on."""
    accepted = await rig.ask("POST", "/api/v1/image/async", json={"prompt": "a red fox"})
    task_id = TaskId(accepted.json["task_id"])
    steps = [(int(accepted.headers["taskfold-sequence"]), "QUEUED")]
    steps.append((await rig.start(task_id), "RUNNING"))
    cancelled = await rig.ask("DELETE", f"{TASKS}/{task_id}")
    steps.append((int(cancelled.headers["taskfold-sequence"]), "CANCELLED"))
    await reached(rig, steps[-1][0])
    return task_id, steps


async def test_a_task_is_shown_as_it_was_at_each_sequence(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id, steps = await lived(rig)
        for sequence, status in steps:
            past = await rig.ask("GET", f"{TASKS}/{task_id}?at_seq={sequence}")
            assert (past.status, past.json["status"], past.json["sequence"]) == (200, status, sequence)
            assert past.json["progress"] is None
            assert past.json["queue"] is None
        [_, (started, _), (ended, _)] = steps
        between = await rig.ask("GET", f"{TASKS}?task_id={task_id}&at_seq={ended - 1}")
        assert (between.json["status"], between.json["sequence"]) == ("RUNNING", started)
        now = await rig.ask("GET", f"{TASKS}/{task_id}")
        assert (await rig.ask("GET", f"{TASKS}/{task_id}?at_seq={ended}")).json == now.json


async def test_a_task_is_shown_as_it_was_at_each_time(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id, _ = await lived(rig)
        history = await rig.ask("GET", f"{TASKS}/{task_id}/events", headers={"Accept": "application/json"})
        for event in history.json["events"]:
            past = await rig.ask("GET", f"{TASKS}/{task_id}", params={"at": event["time"]})
            assert past.json["sequence"] >= event["sequence"]
            assert (
                past.json
                == (await rig.ask("GET", f"{TASKS}/{task_id}?at_seq={past.json['sequence']}")).json
            )
        early = await rig.ask("GET", f"{TASKS}/{task_id}?at=2020-01-01T00:00:00%2B01:00")
        assert early.refusal() == (404, "unknown_task", None)
        late = await rig.ask("GET", f"{TASKS}/{task_id}?at=2120-01-01T00:00:00Z")
        assert late.json == (await rig.ask("GET", f"{TASKS}/{task_id}")).json


async def test_a_history_is_shown_up_to_a_moment(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id, steps = await lived(rig)
        path, as_json = f"{TASKS}/{task_id}/events", {"Accept": "application/json"}
        whole = (await rig.ask("GET", path, headers=as_json)).json["events"]
        for sequence, _ in steps:
            shown = (await rig.ask("GET", f"{path}?at_seq={sequence}", headers=as_json)).json
            assert shown == {"events": [one for one in whole if one["sequence"] <= sequence], "next": None}
        [first, second, _] = whole
        later = f"{path}?at_seq={second['sequence']}&last_event_id={first['sequence']}"
        assert (await rig.ask("GET", later, headers=as_json)).json["events"] == [second]
        early = await rig.ask("GET", f"{path}?at=2020-01-01T00:00:00Z", headers=as_json)
        assert early.json == {"events": [], "next": None}
        streamed = await rig.ask("GET", f"{path}?at_seq={steps[0][0]}")
        assert streamed.refusal() == (422, "conflicting_members", "Accept")


async def test_a_moment_that_is_none_is_refused(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id, steps = await lived(rig)
        newest = steps[-1][0]
        refused = {
            "at_seq=0": (422, "out_of_range", "at_seq"),
            "at_seq=x": (422, "wrong_type", "at_seq"),
            f"at_seq={newest + 1}": (422, "out_of_range", "at_seq"),
            "at=yesterday": (422, "out_of_range", "at"),
            "at=2026-11-24T09:00:00": (422, "out_of_range", "at"),
            "at=2026-11-24T09:00:00Z&at_seq=1": (422, "conflicting_members", "at"),
            "at_seq=1&wait=1": (422, "conflicting_members", "wait"),
        }
        for query, refusal in refused.items():
            assert (await rig.ask("GET", f"{TASKS}/{task_id}?{query}")).refusal() == refusal
        unknown = "0199d4e8-7c1a-7000-8000-ba9876543210"
        assert (await rig.ask("GET", f"{TASKS}/{unknown}?at_seq=1")).refusal()[:2] == (404, "unknown_task")


async def test_the_queues_are_counted_as_they_were(nats_server: NatsServer, tmp_path: Path) -> None:
    """Past the thousandth sequence too, where they have been noted."""
    async with running(settings_for(nats_server, tmp_path)) as rig:
        expected: dict[int, tuple[int, int]] = {}
        waiting: list[TaskId] = []
        running_now: list[TaskId] = []
        sequence = 0
        for turn in range(450):
            accepted = await rig.ask("POST", "/api/v1/image/async", json={"prompt": "fox"})
            waiting.append(TaskId(accepted.json["task_id"]))
            expected[int(accepted.headers["taskfold-sequence"])] = (len(waiting), len(running_now))
            if turn % 2:
                running_now.append(waiting.pop(0))
                sequence = await rig.start(running_now[-1])
                expected[sequence] = (len(waiting), len(running_now))
            if turn % 3 == 0 and running_now:
                sequence = await rig.fail(running_now.pop(0))
                expected[sequence] = (len(waiting), len(running_now))
        assert sequence < 1000
        for _ in range(200):  # one after another, so that the counts are known at every one
            task_id = waiting.pop(0)
            cancelled = await rig.ask("DELETE", f"{TASKS}/{task_id}")
            expected[int(cancelled.headers["taskfold-sequence"])] = (len(waiting), len(running_now))
        assert max(expected) > 1000
        await reached(rig, max(expected))
        for sequence in sorted(expected)[::37] + sorted(expected)[-50:]:
            past = (await rig.ask("GET", f"{QUEUES}?at_seq={sequence}")).json
            [queue] = past["queues"]
            assert (queue["kind"], queue["model"]) == ("image", "any")
            assert (queue["waiting"], queue["running"]) == expected[sequence]
            assert past["sequence"] == sequence
            assert past["at"]
        empty = (await rig.ask("GET", f"{QUEUES}?at=2020-01-01T00:00:00Z")).json
        assert empty == {"queues": [], "sequence": 0, "at": None}
