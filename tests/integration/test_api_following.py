"""One client's stream, over a read model without a server: what it is given and what is held for it."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any, cast

import pytest
from litestar.types import Message, Scope

from schemas.erasure import erased
from schemas.event_filters import EVERYTHING
from schemas.task import fold
from services.api import hub as hubs
from services.api.following import EventStream, Sources
from services.api.hub import Hub
from services.api.listeners import Client, Topic
from services.api.queries import ReadModel
from services.api.reads import Reads
from services.api.windows import Windows
from services.process import background
from tests.builders import OTHER, TASK, done, history, record, started, submitted
from tests.readmodels import folded, lived, made


async def test_the_stream_of_a_task_that_is_erased_before_its_end_was_told_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "PAGE", 1)  # so it is behind where the stream begins
    life = history(submitted(), started(), done())
    another = record(submitted(), 3, task_id=OTHER)
    file = made(tmp_path / "m", life[:2])
    model = ReadModel(file, lambda: None)
    hub, topic = Hub(model, heartbeat_s=60), Topic(task=TASK)
    assert hub.position() == 2
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        folded(database, [another, record(done(), 4), record(erased(fold(TASK, life), 1, "default"), 5)])
    client, windows = Client(10_000), Windows(model, hub)
    joined = windows.near(topic, 0)
    assert joined is not None
    assert joined.whole
    assert not windows.over(topic, joined.looked)
    hub.add(topic, client)
    hub.hint()
    async with asyncio.timeout(5), background(hub.run()):
        await client.wait()
    assert client.ended
    assert b"event: task.erased" in client.take()
    await model.close()


class Socket:
    """What a server sends to a client that reads a piece whenever it is let."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.waiting = asyncio.Event()
        self.reads = asyncio.Semaphore(0)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.pieces.append(message["body"])
            self.waiting.set()
            await self.reads.acquire()

    async def receive(self) -> Any:  # Any: a message
        await asyncio.Event().wait()


async def test_a_slow_client_of_the_past_holds_one_piece_and_is_not_cut_off(tmp_path: Path) -> None:
    told = lived(900)
    file = made(tmp_path / "m", told)
    model = ReadModel(file, lambda: None)
    hub = Hub(model, heartbeat_s=60)

    async def newest() -> int:
        return told[-1].sequence

    sources = Sources(hub, model, cast("Reads", None), newest)  # no snapshot is asked for
    stream = EventStream(sources, Topic(EVERYTHING), 0, coalesce_s=0, limit=10_000)
    socket, scope = Socket(), cast("Scope", {})
    async with asyncio.timeout(30), background(stream(scope, socket.receive, socket.send)):
        for _ in range(5):
            await socket.waiting.wait()
            socket.waiting.clear()
            socket.reads.release()
        held = len(socket.pieces)
        await socket.waiting.wait()
        assert len(socket.pieces) - held <= 1
        assert b"".join(socket.pieces).count(b"id: ") < len(told) / 2
        socket.waiting.clear()
        while b"".join(socket.pieces).count(b"id: ") < len(told):
            socket.reads.release()
            await socket.waiting.wait()
            socket.waiting.clear()
    assert max(map(len, socket.pieces)) < 64 * 1024 + 8 * 1024
    ids = [int(line[4:]) for line in b"".join(socket.pieces).split(b"\n") if line.startswith(b"id: ")]
    assert ids == [event.sequence for event in told]
    assert hub.evicted == 0
    await model.close()
