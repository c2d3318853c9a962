"""Image servers that take no time: ``python -m benchmarks.instant COUNT`` starts so many, on a port each.

The one rule: they cost as little as can be, so what is measured is whoever asks them. They speak OpenAI's
image generation, read nothing of what is asked for, and always give the same picture.
"""

import asyncio
import base64
import sys
from typing import Final, cast

import httptools
import msgspec
import uvloop

from services.gpusim.picture import Picture, render

HOST: Final = "127.0.0.1"
SIDE: Final = 64
_PICTURE: Final = Picture(prompt="a red fox", seed=1, width=SIDE, height=SIDE, steps=4)
_NOWHERE: Final = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def answers() -> dict[bytes, bytes]:
    """Give whole answers by the path that is asked for."""
    picture = base64.b64encode(render(_PICTURE)).decode()
    return {
        b"/v1/images/generations": _answer({"created": 0, "data": [{"b64_json": picture}]}),
        b"/v1/models": _answer({"object": "list", "data": [{"id": "instant", "object": "model"}]}),
        b"/health": _answer({"status": "healthy"}),
    }


def _answer(body: object) -> bytes:
    encoded = msgspec.json.encode(body)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(encoded)}\r\n\r\n"
    return head.encode() + encoded


class Instant(asyncio.Protocol):
    """One connection. A request is answered once it has been read to its end."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers = answers
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._path = b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_message_complete(self) -> None:
        self._transport.write(self._answers.get(self._path, _NOWHERE))
        if not self._parser.should_keep_alive():
            self._transport.close()


async def main(count: int) -> None:
    """Run until the end of the process; prints the urls, on one line."""
    loop = asyncio.get_running_loop()
    given = answers()
    servers = [await loop.create_server(lambda: Instant(given), HOST, 0) for _ in range(count)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    print(*(f"http://{HOST}:{port}" for port in ports), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
