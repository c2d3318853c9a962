"""Fixtures of the conformance tests: one session each, and one speech model in memory for all."""

from collections.abc import AsyncIterator
from functools import cache

import aiohttp
import pytest

from services.dispatcher.backends import http
from services.gpusim import speech


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with http.session() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _one_speech_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every simulated whisper server use the same real model: loading it takes a second."""
    monkeypatch.setattr(speech, "load", _recognizer)


_recognizer = cache(speech.load)
