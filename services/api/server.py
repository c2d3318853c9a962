"""The HTTP server: its listening socket, and how it stops.

The one rule: streams and waits are ended before connections are waited for, or it would wait for ever.
"""

import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Generator
from typing import Final

import uvicorn
from litestar import Litestar

from services.api.connections import Connection
from services.process import StartError

_SEND_BUFFER: Final = 128 * 1024
_USER_TIMEOUT_MS: Final = 30_000
_BACKLOG: Final = 4096
_GRACE_S: Final = 5
_KEEP_ALIVE_S: Final = 60


def listen(host: str, port: int) -> socket.socket:
    """Bind the socket; 0 takes a free port. StartError names what is wrong.

    Connections inherit a small send buffer, so that a client that does not read is noticed, and a time
    after which one that is gone is given up.
    """
    bound: socket.socket | None = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        if user_timeout := getattr(socket, "TCP_USER_TIMEOUT", None):
            bound.setsockopt(socket.IPPROTO_TCP, user_timeout, _USER_TIMEOUT_MS)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        if bound is not None:
            bound.close()
        taken = error.errno == errno.EADDRINUSE
        reason = (
            f"port {port} is taken" if taken else f"cannot listen on {host} port {port}: {error.strerror}"
        )
        raise StartError(f"{reason}; TASKFOLD_API_PORT sets another port, 0 takes a free one") from None
    return bound


def url_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """``ending`` is called once nothing more is accepted, to end what would go on by itself."""

    def __init__(self, app: Litestar, ending: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                http=Connection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        self._ending = ending

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to the process."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._ending()
        await super().shutdown(sockets)


class _CutOff(logging.Filter):
    """Keeps out what uvicorn says of a client that was cut off on purpose."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "ASGI callable returned without completing response."


def quiet_cut_offs() -> None:
    logging.getLogger("uvicorn.error").addFilter(_CutOff())
