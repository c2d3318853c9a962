"""A simulated GPU in the test's process that comes back, on its port, whenever it has crashed.

The one rule: what it saw is counted over all its lives, so that nothing is forgiven by a restart.
"""

import asyncio

import aiohttp
from msgspec.structs import asdict, replace

from services.gpusim.control import Control
from services.gpusim.main import serve
from services.gpusim.model import Counts, Options, Stats
from services.process import background
from tests.nats import free_port


class Gpu(Control):
    """``crash`` ends this life of it as the fault of that name does; the next begins by itself."""

    def __init__(self, http: aiohttp.ClientSession, options: Options) -> None:
        self._options = replace(options, port=free_port())
        self.url = f"http://127.0.0.1:{self._options.port}"
        super().__init__(http, self.url)
        self._past: list[Stats] = []
        self._up = asyncio.Event()
        self._dying = asyncio.Event()

    async def run(self) -> None:
        """Live again and again, until cancelled."""
        while True:
            self._dying.clear()
            async with background(
                serve(self._options, lambda _url: self._up.set(), lambda _status: self._dying.set())
            ):
                await self._dying.wait()
                self._up.clear()
                # A job that crashes its server does nothing more, so there is time for a last look.
                self._past.append(await super().stats())

    @property
    def lives(self) -> int:
        """How often it was started."""
        return len(self._past) + 1

    async def up(self) -> None:
        """Wait until it listens."""
        await self._up.wait()

    async def crash(self) -> None:
        """End this life, and wait until the next has begun."""
        self._up.clear()
        self._dying.set()
        await self._up.wait()

    async def stats(self) -> Stats:
        """Sum up all lives; what runs and what waits does so in this one."""
        await self._up.wait()
        lives = (*self._past, now := await super().stats())
        counts = {name: sum(getattr(life.jobs, name) for life in lives) for name in asdict(now.jobs)}
        return replace(now, jobs=Counts(**counts), max_waiting=max(life.max_waiting for life in lives))
