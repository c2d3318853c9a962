"""Fixtures that several kinds of tests need."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from services.bus.connection import Bus
from services.gpusim import speech
from tests.nats import NatsServer
from tests.speech import recognizer


@pytest.fixture(autouse=True)
def _one_speech_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every simulated speech server in this process use the same real model."""
    monkeypatch.setattr(speech, "load", recognizer)


@pytest.fixture(autouse=True)
def _logs_of_its_own() -> Iterator[None]:
    """Undo what a command that ran in this process has said of logs, or a later test would see none."""
    yield
    structlog.reset_defaults()


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
