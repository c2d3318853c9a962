"""The least of an HTTP client: one connection, one request at a time, and how long each took.

The one rule: it adds the same to a floor and to what is measured, and as little as can be.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final, cast
from urllib.parse import urlsplit

from msgspec import Struct

_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
LOST: Final = 599


class Answer(Struct, frozen=True):
    """``taken_s`` is from the first byte sent to the last one received."""

    status: int
    body: bytes
    taken_s: float


class Connection(asyncio.Protocol):
    """Answers must say their length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = b""
        self._sent_at = 0.0
        self._answer: asyncio.Future[Answer] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send a whole request and await the answer; one whose connection broke has the status LOST."""
        self._answer = asyncio.get_running_loop().create_future()
        self._received = b""
        self._sent_at = time.perf_counter()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(_END)
        if not found:
            return
        _, _, rest = (head.lower() + b"\r\n").partition(_LENGTH)
        length = int(rest[: rest.index(b"\r")])
        if len(body) >= length:
            self._resolve(Answer(int(head[9:12]), body, time.perf_counter() - self._sent_at))

    def connection_lost(self, exc: Exception | None) -> None:
        self._resolve(Answer(LOST, repr(exc).encode(), time.perf_counter() - self._sent_at))

    def _resolve(self, answer: Answer) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


async def connect(url: str) -> Connection:
    where = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, str(where.hostname), int(where.port or 80))
    return connection


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Connect to a url for as long as it is entered."""
    connection = await connect(url)
    try:
        yield connection
    finally:
        connection.close()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, body: bytes, tenant: str = "") -> bytes:
    whose = f"Taskfold-Tenant: {tenant}\r\n" if tenant else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\n{whose}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
