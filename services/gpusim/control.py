"""A client of the routes under `/_sim`, for tests, benchmarks and demonstrations."""

import msgspec
from aiohttp import ClientSession

from services.gpusim.model import Fault, Job, Script, Stats


class _Jobs(msgspec.Struct, frozen=True):
    jobs: list[Job]


class _Faults(msgspec.Struct, frozen=True):
    faults: list[Script]


class Control:
    """One simulated server, seen by who is in charge of it."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/_sim"

    async def stats(self) -> Stats:
        """Read the counters."""
        return msgspec.json.decode(await self._send("GET", "stats"), type=Stats)

    async def jobs(self) -> list[Job]:
        """Read the last jobs, oldest first."""
        return msgspec.json.decode(await self._send("GET", "jobs"), type=_Jobs).jobs

    async def faults(self) -> list[Script]:
        """Read the faults that wait for a job."""
        return msgspec.json.decode(await self._send("GET", "faults"), type=_Faults).faults

    async def script(self, mode: Fault, *, count: int = 1, seconds: float | None = None) -> None:
        """Give the next jobs a fault; REFUSE begins before this returns."""
        script = Script(mode=mode, count=count, seconds=seconds)
        await self._send("POST", "faults", msgspec.json.encode(script))

    async def clear(self) -> None:
        """Forget the faults that wait, and let hanging jobs go on."""
        await self._send("DELETE", "faults")

    async def _send(self, method: str, route: str, body: bytes | None = None) -> bytes:
        url = f"{self._url}/{route}"
        async with self._session.request(method, url, data=body, raise_for_status=True) as answer:
            return await answer.read()
