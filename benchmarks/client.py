"""The least HTTP client: one kept connection, one request at a time, the same for ours and the floor."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; status and body of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        start = lower.index(b"content-length:") + 15
        length = int(lower[start : lower.index(b"\r", start)])
        return int(head[9:12]), await self._reader.readexactly(length)

    async def timed(self, request: Callable[[int], bytes], count: int, status: int) -> list[float]:
        """Ask one after the other; milliseconds of each."""
        taken = []
        for number in range(count):
            content = request(number)
            begun = time.perf_counter()
            answered, body = await self.ask(content)
            taken.append((time.perf_counter() - begun) * 1000)
            if answered != status:
                raise RuntimeError(f"{answered}: {body.decode()}")
        return taken


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
