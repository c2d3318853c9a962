"""The client that asks at a steady rate: nothing that a stalled server delays is left out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import count, pairwise

from aiohttp import web
from aiohttp.test_utils import RawTestServer

from benchmarks.client import Answer, get
from benchmarks.pacing import CONNECTIONS, OpenLoop, beats

RATE = 1000.0


class Stalled:
    """Answers nobody until it has been asked so often."""

    def __init__(self, until: int) -> None:
        self.asked: list[str] = []
        self.url = ""
        self._until = until
        self._enough = asyncio.Event()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(request.path)
        if len(self.asked) >= self._until:
            self._enough.set()
        await self._enough.wait()
        return web.Response(body=b"here")


@asynccontextmanager
async def stalled(until: int) -> AsyncIterator[Stalled]:
    server = Stalled(until)
    async with RawTestServer(server.answer) as listening:
        server.url = f"http://127.0.0.1:{listening.port}"
        yield server


async def test_every_moment_is_given_and_none_before_it_has_come() -> None:
    clock = asyncio.get_running_loop().time
    async with aclosing(beats(RATE)) as moments:
        given = [(due, clock()) async for due in _first(moments, 20)]
    dues = [due for due, _ in given]
    steps = [later - earlier for earlier, later in pairwise(dues)]
    assert all(abs(step - 1 / RATE) < 1e-6 for step in steps)
    assert all(now >= due for due, now in given)


async def _first(moments: AsyncIterator[float], most: int) -> AsyncIterator[float]:
    for _ in range(most):
        yield await anext(moments)


async def test_what_comes_while_a_server_stalls_is_late_from_when_it_was_due() -> None:
    async with stalled(until=10) as server:
        loop = OpenLoop(server.url, RATE)
        await loop.run([get("/")] * 10)
    assert loop.answers == {200: 10}
    assert max(loop.samples) - min(loop.samples) > 8  # milliseconds: they were due one after the other
    assert max(loop.samples) >= 9


async def test_who_finds_no_connection_free_waits_and_is_answered_later() -> None:
    told: list[tuple[int, Answer]] = []
    async with stalled(until=CONNECTIONS) as server:
        loop = OpenLoop(server.url, RATE, lambda number, answer: told.append((number, answer)))
        await loop.run(get(f"/{number}") for number in range(CONNECTIONS + 4))
    assert sorted(number for number, _ in told) == list(range(CONNECTIONS + 4))
    assert len(server.asked) == CONNECTIONS + 4


async def test_it_asks_for_as_long_as_it_is_entered() -> None:
    heard = asyncio.Event()
    async with stalled(until=1) as server:
        loop = OpenLoop(server.url, RATE, lambda number, _: heard.set() if number == 5 else None)
        async with loop.meanwhile(get("/") for _ in count()):
            await heard.wait()
    assert loop.answers.total() == len(server.asked) >= 6
