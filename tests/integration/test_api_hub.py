"""The tail of the events, over a read model without a server: when it is read."""

import asyncio
import contextlib
import sqlite3
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from services.api import hub as hubs
from services.api.hub import Hub
from services.api.listeners import Client
from services.api.queries import ReadModel
from services.process import at_most, background
from tests.builders import TASK, done, history, started, submitted
from tests.readmodels import folded, made


@pytest.mark.parametrize("way", ["waits", "listens"])
async def test_whoever_comes_has_the_events_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    paused = asyncio.Event()

    def endless(seconds: float) -> AbstractAsyncContextManager[None]:
        if seconds == hubs.UNSOUGHT_S:
            paused.set()
            seconds = 1000.0
        return at_most(seconds)

    monkeypatch.setattr(hubs, "at_most", endless)
    life = history(submitted(), started(), done())
    file = made(tmp_path / "m", life[:2])
    model = ReadModel(file, lambda: None)
    hub = Hub(model, heartbeat_s=60)
    assert hub.position() == 2
    read = asyncio.Event()
    hub.tell(lambda _: read.set())
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        folded(database, life[2:])

    async def was_read() -> bool:
        return read.is_set()

    async with asyncio.timeout(5), background(hub.run()):
        hub.hint()
        await paused.wait()
        assert not read.is_set()
        if way == "waits":
            assert await hub.waits.until(TASK, was_read, bool, 5)
        else:
            hub.open(Client(10_000))
            await read.wait()
    await model.close()


async def test_where_a_stream_begins_is_as_far_as_the_read_model_is(tmp_path: Path) -> None:
    life = history(submitted(), started(), done())
    file = made(tmp_path / "m", life[:1])
    model, told = ReadModel(file, lambda: None), list[int]()
    hub = Hub(model, heartbeat_s=60)
    hub.tell(lambda row: told.append(row[0]))
    assert hub.position() == 1
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        folded(database, life[1:])
    assert hub.position() == 3
    assert told == [2, 3]
    await model.close()
