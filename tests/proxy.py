"""A TCP proxy before nats-server that loses the answer to one publish, and nothing else.

It reads the client's protocol just enough to know the reply subject of a publish to a given subject, and
leaves out the one message that the server sends there.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable

_PUBLISH = re.compile(rb"HPUB (?P<subject>\S+) (?P<reply>_INBOX\S+) \d+ \d+\r\n")
_MESSAGE = re.compile(rb"(?:H?MSG) (?P<subject>_INBOX\S+) \S+ (?:\S+ )?(?P<size>\d+)\r\n")


class Proxy:
    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._token: bytes | None = None
        self._reply: bytes | None = None
        self._dropped = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    def drop_answer_to(self, token: bytes) -> asyncio.Event:
        """Lose the answer to the next publish whose subject ends so; the event is set when it is lost."""
        self._token, self._reply, self._dropped = token.strip(), None, asyncio.Event()
        return self._dropped

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        self._writers |= {writer, up_writer}
        await asyncio.gather(
            self._pump(reader, up_writer, self._watch), self._pump(up_reader, writer, self._filter)
        )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, act: Callable[[bytes], bytes]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 20):
                writer.write(act(data))
                await writer.drain()
            writer.close()

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _watch(self, data: bytes) -> bytes:
        if self._token is not None:
            for match in _PUBLISH.finditer(data):
                if match["subject"].endswith(self._token):
                    self._reply, self._token = match["reply"], None
                    break
        return data

    def _filter(self, data: bytes) -> bytes:
        if self._reply is None:
            return data
        for match in _MESSAGE.finditer(data):
            if match["subject"] == self._reply:
                self._reply = None
                self._dropped.set()
                return data[: match.start()] + data[match.end() + int(match["size"]) + 2 :]
        return data


@contextlib.asynccontextmanager
async def proxied(host: str, port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(host, port)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)  # noqa: SLF001 - it is one thing
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
