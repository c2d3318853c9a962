"""Two apis, each with a read model of its own, on one stream: a client may move between them."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.ids import TaskId
from tests.api import Reply, Rig, running, settings_for
from tests.integration.test_api_sse import listening
from tests.nats import NatsServer

TASKS = "/api/v1/tasks"


@contextlib.asynccontextmanager
async def replicas(server: NatsServer, folder: Path, *, projected: bool = True) -> AsyncIterator[list[Rig]]:
    """Run two; ``projected`` says whether the second has a projector."""
    async with (
        running(settings_for(server, folder / "one")) as one,
        running(settings_for(server, folder / "two"), projected=projected) as two,
    ):
        yield [one, two]


class Wanderer:
    """A client that asks another replica each time, and says how far it has seen."""

    def __init__(self, rigs: list[Rig], first: int) -> None:
        self._rigs = rigs
        self._turns = itertools.cycle((first, 0, 1, 0, 1, 1))
        self.seen = 0

    async def ask(self, method: str, path: str, body: object = None) -> Reply:
        rig = self._rigs[next(self._turns)]
        headers = {"Taskfold-Sequence": str(self.seen)}
        reply = await rig.ask(method, path, headers=headers, **({"json": body} if body else {}))
        self.seen = max(self.seen, int(reply.headers.get("taskfold-sequence", 0)))
        return reply


async def submitted(client: Wanderer) -> TaskId:
    reply = await client.ask("POST", "/api/v1/image/async", {"prompt": "a red fox", "user": "ada"})
    assert reply.status == 202
    return TaskId(reply.json["task_id"])


async def test_a_client_that_moves_sees_what_it_did_itself(nats_server: NatsServer, tmp_path: Path) -> None:
    async with replicas(nats_server, tmp_path) as rigs:
        client = Wanderer(rigs, 0)
        for _ in range(40):
            task_id = await submitted(client)
            assert (await client.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "QUEUED"
            listed = (await client.ask("GET", f"{TASKS}?user=ada&limit=1")).json["tasks"]
            assert [task["task_id"] for task in listed] == [task_id]
            assert (await client.ask("DELETE", f"{TASKS}/{task_id}")).json["outcome"] == "CANCELLED"
            assert (await client.ask("GET", f"{TASKS}/{task_id}")).json["status"] == "CANCELLED"
            listed = (await client.ask("GET", f"{TASKS}?status=CANCELLED&limit=1")).json["tasks"]
            assert [task["task_id"] for task in listed] == [task_id]


async def test_both_show_the_same_documents_lists_and_histories(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with replicas(nats_server, tmp_path) as rigs:
        client = Wanderer(rigs, 1)
        ids = [await submitted(client) for _ in range(10)]
        for task_id in ids[:6]:
            await rigs[0].start(task_id)
        for task_id in ids[:3]:
            client.seen = await rigs[1].fail(task_id)
        for task_id in ids[6:]:
            await client.ask("DELETE", f"{TASKS}/{task_id}")
        as_json = {"Accept": "application/json", "Taskfold-Sequence": str(client.seen)}
        for path in (
            *(f"{TASKS}/{task_id}" for task_id in (*ids[:3], *ids[6:])),
            *(f"{TASKS}/{task_id}/events" for task_id in ids),
            "/api/v1/events",
            f"{TASKS}?status=FAILED",
            f"{TASKS}/{ids[0]}?at_seq={client.seen - 5}",
            f"/api/v1/queues?at_seq={client.seen - 5}",
        ):
            one, two = [await rig.ask("GET", path, headers=as_json) for rig in rigs]
            assert one.status == 200, path
            assert (one.status, one.body) == (two.status, two.body), path
            assert one.headers.get("etag") == two.headers.get("etag")


async def test_a_stream_that_was_begun_at_one_goes_on_at_the_other(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with replicas(nats_server, tmp_path) as rigs:
        seen: list[int] = []

        async def follow() -> None:
            turn = 0
            while len(seen) < 200:
                after = seen[-1] if seen else 0
                async with listening(rigs[turn % 2], "/api/v1/events", after) as listener:
                    async for frame in listener.frames():
                        assert frame.id is not None
                        seen.append(frame.id)
                        if len(seen) % 13 == 0 or len(seen) == 200:
                            break  # and reconnect elsewhere
                turn += 1

        following = asyncio.create_task(follow())
        for number in range(100):
            task_id = await rigs[number % 2].submit()
            await rigs[0].start(task_id)
        async with asyncio.timeout(30):
            await following
        history = await rigs[0].ask("GET", "/api/v1/events", headers={"Accept": "application/json"})
        assert seen == [event["sequence"] for event in history.json["events"]]


async def test_what_a_replica_has_not_got_is_read_from_the_log_or_refused(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with replicas(nats_server, tmp_path, projected=False) as [one, two]:
        accepted = await one.ask("POST", "/api/v1/image/async", json={"prompt": "a red fox"})
        task_id, seen = accepted.json["task_id"], accepted.headers["taskfold-sequence"]
        headers = {"Taskfold-Sequence": seen}
        shown = await two.ask("GET", f"{TASKS}/{task_id}", headers=headers)
        assert (shown.status, shown.json["status"]) == (200, "QUEUED")
        refused = await two.ask("GET", TASKS, headers=headers)
        assert refused.refusal() == (503, "read_model_away", None)
        assert refused.headers["retry-after"]


@pytest.mark.parametrize("path", [TASKS, "/api/v1/queues"])
async def test_who_has_seen_more_than_there_is_is_told_so(
    nats_server: NatsServer, tmp_path: Path, path: str
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        ahead = await rig.ask("GET", path, headers={"Taskfold-Sequence": "1000000"})
        assert ahead.refusal() == (503, "read_model_away", None)
        wrong = await rig.ask("GET", path, headers={"Taskfold-Sequence": "seven"})
        assert wrong.refusal() == (422, "wrong_type", "Taskfold-Sequence")
