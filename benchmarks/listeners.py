"""Clients of streams of events, thousands in a process: ``python -m benchmarks.listeners URL FILE``.

The one rule: a client costs next to nothing, so that what is measured is the server: the bytes are looked
through for the moments at which the events were sent, and for nothing else.
"""

import asyncio
import contextlib
import re
import signal
import sys
import time
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec
import uvloop
from msgspec import Struct

AT_ONCE: Final = 64
"""Connections that are being made at a time."""
_SENT: Final = re.compile(rb'"remote_id":"at-(\d+)"')
_FRAME_END: Final = b"\n\n"
_NS_PER_MS: Final = 1_000_000


class Heard(Struct, frozen=True):
    """What came since the last look. ``latencies_ms``: from the sending of an event to its arrival.

    ``lasts`` are by the event, by when it was sent: how many clients got it, and when the last did.
    """

    latencies_ms: list[float]
    lasts: dict[str, tuple[int, float]]
    lost: int


def stamp() -> str:
    """Give what the remote id of an event says when it was sent; clocks of one machine agree."""
    return f"at-{time.monotonic_ns()}"


class Ears:
    """What all clients of this process have heard."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self.lasts: dict[str, tuple[int, float]] = {}
        self.lost = 0

    def hear(self, frames: bytes) -> None:
        now = time.monotonic_ns()
        for sent in _SENT.findall(frames):
            latency = (now - int(sent)) / _NS_PER_MS
            self.latencies_ms.append(latency)
            count, _ = self.lasts.get(key := sent.decode(), (0, 0.0))
            self.lasts[key] = count + 1, latency

    def tell(self) -> Heard:
        heard = Heard(self.latencies_ms, self.lasts, self.lost)
        self.latencies_ms, self.lasts, self.lost = [], {}, 0
        return heard


class Stream(asyncio.Protocol):
    """One client, which reads for as long as the server sends."""

    __slots__ = ("_ears", "_path", "_rest", "_transport", "open")

    def __init__(self, ears: Ears, path: str) -> None:
        self._ears = ears
        self._path = path
        self._rest = b""
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        head = f"GET {self._path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n"
        self._transport.write(head.encode())

    def data_received(self, data: bytes) -> None:
        whole, end, self._rest = (self._rest + data).rpartition(_FRAME_END)
        if not self.open.done():
            assert (whole + end + self._rest).startswith(b"HTTP/1.1 200"), data
            self.open.set_result(None)
        self._ears.hear(whole)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        self._ears.lost += 1
        if not self.open.done():
            self.open.set_exception(ConnectionError(self._path))


async def main(url: str, file: Path) -> None:
    """Listen to the paths in a file, one a line; prints a word once all are open.

    On SIGUSR1 writes what was heard since the last time into a file, and prints that file's name.
    """
    ears, asked = Ears(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, asked.set)
    streams = await _opened(url, file.read_text().split(), ears)  # noqa: ASYNC240 - nothing else runs yet
    print("listens", flush=True)
    for number in range(sys.maxsize):
        await asked.wait()
        asked.clear()
        said = file.with_name(f"{file.name}.{number}")
        said.write_bytes(msgspec.json.encode(ears.tell()))
        print(said, flush=True)
    del streams


async def _opened(url: str, paths: list[str], ears: Ears) -> list[Stream]:
    where, loop, few = urlsplit(url), asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)

    async def one(path: str) -> Stream:
        async with few:
            _, stream = await loop.create_connection(
                lambda: Stream(ears, path), str(where.hostname), int(where.port or 80)
            )
            await stream.open
            return stream

    return await asyncio.gather(*map(one, paths))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(sys.argv[1], Path(sys.argv[2])))
