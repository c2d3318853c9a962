"""Fixtures of the conformance tests: one session each."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from services.dispatcher.backends import http


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with http.session() as opened:
        yield opened
