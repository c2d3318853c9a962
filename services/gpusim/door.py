"""The listening socket of a simulated server, which can refuse connections for a while.

The port stays bound while nothing listens on it, so that no other process takes it meanwhile.
"""

import asyncio
import socket

from aiohttp import web


class Door:
    """One address. Port 0 takes a free port. Raises OSError when the port cannot be had."""

    def __init__(self, host: str, port: int) -> None:
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._address = (host, port)
        self._held = self._bound()
        self._address = (host, self._held.getsockname()[1])
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._shut_for: asyncio.Queue[float] = asyncio.Queue()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def open(self, runner: web.AppRunner) -> None:
        """Accept connections for a runner that has been set up."""
        self._runner = runner
        self._site = web.SockSite(runner, self._bound())
        await self._site.start()

    async def shut(self, seconds: float) -> None:
        """Refuse connections for so long, and close those that are open once they are idle."""
        if self._runner is None or self._site is None:
            return  # it refuses already
        site, self._site = self._site, None
        await site.stop()
        if self._runner.server is not None:
            self._runner.server.pre_shutdown()
        self._shut_for.put_nowait(seconds)

    async def tend(self) -> None:
        """Open again whenever it was shut, until cancelled."""
        while True:
            await asyncio.sleep(await self._shut_for.get())
            if self._runner is not None:
                await self.open(self._runner)

    def close(self) -> None:
        """Give the port back. The sockets that listen belong to the runner."""
        self._held.close()

    def _bound(self) -> socket.socket:
        bound = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(self._address)
        except OSError:
            bound.close()
            raise
        return bound
