"""Clients that ask at a steady rate, and clients that ask one after the other.

The one rule: at a steady rate a request counts from when it was due, whoever waits, so that a server which
stalls makes every request late that came meanwhile. Nobody waits for an answer to send the next one.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from itertools import islice
from typing import Final, NamedTuple

from benchmarks.client import Answer, Connection, connect
from benchmarks.measure import Samples

CONNECTIONS: Final = 16
SUSTAINED: Final = 0.95
"""Whoever answers a smaller part of what is asked, in the time it is asked in, is beyond saturation."""
_REFUSED: Final = 400

Heard = Callable[[int, Answer], None]
"""Is told of each answer, by the number of its request."""


class Server(NamedTuple):
    """Who is asked, and what: requests without end, each to be answered with this status."""

    url: str
    requests: Iterator[bytes]
    status: int


async def beats(rate: float) -> AsyncGenerator[float, None]:
    """Give the moments that are so many a second apart, each when it has come, and all of them.

    A thread tells them, since timers of an event loop tell whole milliseconds.
    """
    loop, over = asyncio.get_running_loop(), threading.Event()
    told = asyncio.Queue[float]()

    def beat() -> None:
        due = time.perf_counter()
        while not over.wait(max(0.0, due - time.perf_counter())):
            loop.call_soon_threadsafe(told.put_nowait, due)
            due += 1 / rate

    ticking = loop.run_in_executor(None, beat)
    try:
        while True:
            yield await told.get()
    finally:
        over.set()
        await ticking


class OpenLoop:
    """Asks a url at a steady rate over some connections; who finds none free waits, and that counts.

    ``samples`` are milliseconds from when each was due; ``answers`` counts statuses. ``took_s``: from when
    the first was due to the last answer.
    """

    def __init__(self, url: str, rate: float, heard: Heard = lambda _, __: None) -> None:
        self.samples: Samples = []
        self.answers: Counter[int] = Counter()
        self.took_s = 0.0
        self._url = url
        self._rate = rate
        self._heard = heard
        self._free: asyncio.Queue[Connection] = asyncio.Queue()

    @property
    def answered_a_second(self) -> float:
        return self.answers.total() / self.took_s

    async def run(self, requests: Iterable[bytes]) -> None:
        """Ask for each at its time, and wait for the last answer."""
        for _ in range(CONNECTIONS):
            self._free.put_nowait(await connect(self._url))
        began = time.perf_counter()
        numbered = enumerate(requests)
        async with asyncio.TaskGroup() as group, aclosing(beats(self._rate)) as moments:
            async for due in moments:
                if (request := next(numbered, None)) is None:
                    break
                group.create_task(self._ask(*request, due))
        self.took_s = time.perf_counter() - began
        while not self._free.empty():
            self._free.get_nowait().close()

    @contextlib.asynccontextmanager
    async def meanwhile(self, requests: Iterator[bytes]) -> AsyncIterator[None]:
        """Ask for as long as it is entered."""
        over = asyncio.Event()

        def until_over() -> Iterator[bytes]:
            while not over.is_set():
                yield next(requests)

        async with asyncio.TaskGroup() as group:
            group.create_task(self.run(until_over()))
            yield
            over.set()

    async def _ask(self, number: int, request: bytes, due: float) -> None:
        connection = await self._free.get()
        answer = await connection.ask(request)
        self.samples.append((time.perf_counter() - due) * 1000)
        self.answers[answer.status] += 1
        if answer.status >= _REFUSED:  # it may have been cut off
            connection.close()
            connection = await connect(self._url)
        self._free.put_nowait(connection)
        self._heard(number, answer)


async def ask(connection: Connection, server: Server, count: int) -> Samples:
    """Ask for one after the other; milliseconds each."""
    samples = []
    for request in islice(server.requests, count):
        answer = await connection.ask(request)
        assert answer.status == server.status, answer
        samples.append(answer.taken_s * 1000)
    return samples


async def closed_loop(server: Server, clients: int, lasts_s: float) -> Samples:
    """Have so many clients ask for so long, each one request after the other; milliseconds each."""
    end_at = time.perf_counter() + lasts_s
    samples: Samples = []

    async def client() -> None:
        connection = await connect(server.url)
        while time.perf_counter() < end_at:
            samples.extend(await ask(connection, server, 1))
        connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return samples
