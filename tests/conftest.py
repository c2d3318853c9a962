"""Fixtures that several kinds of tests need."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.bus.connection import Bus
from tests.nats import NatsServer


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    connection = Bus(nats_server.url, "test")
    await connection.connect()
    yield connection
    await connection.close()
