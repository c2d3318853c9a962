"""Connections of clients: an answer's head goes out together with what follows it.

The one rule: what is held back is held back for one turn of the loop at most.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD: Final = b"HTTP/1.1 "


class Joining:
    """A transport that writes a head with the body's beginning: one system call, and one packet.

    uvloop writes at once what uvicorn hands it in two pieces, and each wakes the client.
    """

    __slots__ = ("_head", "_inner", "_loop")

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:  # Any: whatever else a transport has
        return getattr(self._inner, name)

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._inner.writelines((head, data))
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._inner.write(data)

    def close(self) -> None:
        self._flush()
        self._inner.close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._inner.is_closing():
            self._inner.write(head)


class Connection(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(Joining(transport, self.loop))  # type: ignore[arg-type]  # it has all of one
