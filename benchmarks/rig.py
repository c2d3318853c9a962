"""Real processes to measure: a nats-server as ``taskfold up`` runs it, ours, simulated GPUs, floors.

The one rule: whatever is started here is gone when the rig is, and when the benchmark is killed.
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import msgspec
import psutil  # type: ignore[import-untyped]  # it has no types
from msgspec import Struct

from benchmarks.client import Connection, connected
from benchmarks.measure import Samples
from schemas.ids import TaskId
from services import clock
from services.bus.connection import Bus
from services.gpusim.model import Options
from services.settings import Settings
from services.up import nats_server, ports
from services.up.tree import Command, spawn

HOST: Final = "127.0.0.1"
ROOT: Final = Path(__file__).parents[1]
PATIENCE_S: Final = 60.0
_LOOK_S: Final = 0.05
_GRACE_S: Final = 15.0
_MEGABYTE: Final = 1e6

Take = Callable[[], Awaitable[Samples]]
"""Takes some samples."""


class Memory(Struct, frozen=True):
    """Resident memory of a process in MB when its load had ended."""

    process: str
    now: float


class Rig:
    """One nats-server with an empty store, and what is started beside it. Enter it first."""

    def __init__(self, folder: Path, http: aiohttp.ClientSession, **settings: object) -> None:
        self.http = http
        self._exits = contextlib.AsyncExitStack()
        reserved = self._exits.enter_context(contextlib.ExitStack())
        api, nats = (ports.reserve(reserved, HOST, 0, name) for name in ("api_port", "nats_port"))
        chosen = {"api_port": api, "nats_port": nats, "data_dir": str(folder), "log_level": "warning"}
        self.settings = msgspec.convert({**chosen, **settings}, Settings)
        self.url = f"http://{HOST}:{api}"
        self.bus = Bus(self.settings.bus_url, "benchmark")
        self._chosen = {**chosen, **settings}
        self._gpu_urls: list[str] = []
        self._ours: dict[str, psutil.Process] = {}
        self._gpus: list[psutil.Process] = []

    async def __aenter__(self) -> Self:
        try:
            await self._start_nats()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def _start_nats(self) -> None:
        port = self.settings.nats_port
        (self.settings.data_path / "logs").mkdir(parents=True)
        command = nats_server.command(self.settings, port, 0, os.environ)
        process = await self.run(msgspec.structs.replace(command, keep_fds=()))
        self._nats = psutil.Process(process.pid)
        async with asyncio.timeout(PATIENCE_S):
            await until(self._greets)
            await self.bus.connect()
        self._exits.push_async_callback(self.bus.close)

    async def _greets(self) -> bool:
        return (await ports.first_line(HOST, self.settings.nats_port)).startswith(b"INFO")

    async def gpus(self, count: int, options: Options, protocol: str) -> list[str]:
        """Start one process of so many simulated GPUs that image tasks go to; before ``start``."""
        each = [msgspec.structs.replace(options, seed=options.seed + number) for number in range(count)]
        return await self.unequal_gpus(each, protocol)

    async def unequal_gpus(self, each: Sequence[Options], protocol: str, query: str = "") -> list[str]:
        """Start one process of GPUs that differ; ``query`` follows their urls in the registry."""
        return await self._serve_gpus(
            protocol, query, "benchmarks.gpus", msgspec.json.encode(each).decode()
        )

    async def instant_gpus(self, count: int) -> list[str]:
        """Start one process of so many image servers that take no time; before ``start``."""
        return await self._serve_gpus("openai_images", "", "benchmarks.instant", str(count))

    async def _serve_gpus(self, protocol: str, query: str, module: str, *words: str) -> list[str]:
        process = await self.companion(module, *words)
        self._gpus.append(psutil.Process(process.pid))
        urls = (await self.said(process)).split()
        self._gpu_urls += [f"{protocol}+{url}{query}" for url in urls]
        return urls

    async def beside(self, module: str, *words: str, patience_s: float = PATIENCE_S) -> str:
        """Start a process of the benchmark's own, and give the line that it prints when it is ready."""
        return await self.said(await self.companion(module, *words), patience_s)

    async def companion(self, module: str, *words: str) -> Process:
        """Start a process of the benchmark's own."""
        return await self.run(self._python(module, *words), PIPE)

    async def said(self, process: Process, patience_s: float = PATIENCE_S) -> str:
        """Give the next line that a companion prints."""
        assert process.stdout is not None
        async with asyncio.timeout(patience_s):
            line = await process.stdout.readline()
        assert line, f"a process has ended; see {self.settings.data_path / 'logs'}"
        return line.decode().strip()

    async def another(self, name: str, **settings: object) -> psutil.Process:
        """Start one more part of Taskfold, with settings that differ."""
        command = self._python("services", name)
        ours = {f"TASKFOLD_{key.upper()}": str(value) for key, value in settings.items()}
        process = await self.run(msgspec.structs.replace(command, env={**command.env, **ours}))
        return psutil.Process(process.pid)

    async def start(self, *names: str, patience_s: float = PATIENCE_S) -> None:
        """Start parts of Taskfold, by the names of their commands, until the api is ready."""
        init = await self.run(self._python("services", "init"))
        assert await init.wait() == 0
        for name in names:
            process = await self.run(self._python("services", name))
            self._ours[name] = psutil.Process(process.pid)
        async with asyncio.timeout(patience_s):
            await until(self._ready)

    async def _ready(self) -> bool:
        for name, process in self._ours.items():
            assert process.is_running(), f"{name} has ended; see its log"
        try:
            async with self.http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    def memory(self) -> list[Memory]:
        """Look at the memory of what ``start`` has started, and of the nats-server."""
        everyone = {**self._ours, "nats-server": self._nats}
        return [Memory(name, process.memory_info().rss / _MEGABYTE) for name, process in everyone.items()]

    def cpu_s(self) -> dict[str, float]:
        """Give the processor time of what ``start`` has started and of all else here, by what it is.

        ``client`` is this process, ``gpus`` are all that stand in for GPUs.
        """
        times = {name: spent_s(process) for name, process in self._ours.items()}
        gpus = {"gpus": sum(map(spent_s, self._gpus))} if self._gpus else {}
        return {**times, "nats-server": spent_s(self._nats), **gpus, "client": spent_s(psutil.Process())}

    def pid(self, name: str) -> int:
        """Give the id of what ``start`` has started."""
        return int(self._ours[name].pid)

    def children_s(self, name: str) -> float:
        """Give the processor time of the processes that one of them has started and seen end."""
        spent = self._ours[name].cpu_times()
        return float(spent.children_user + spent.children_system)

    def connection(self, url: str | None = None) -> AbstractAsyncContextManager[Connection]:
        """Connect to a url, the api's by default, for as long as it is entered."""
        return connected(url or self.url)

    async def finish(self, task_ids: list[TaskId], patience_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """Wait until every one of these tasks is done, and give their documents."""
        documents = []
        async with asyncio.timeout(patience_s):
            for task_id in task_ids:
                document: dict[str, Any] = {"status": ""}
                while (status := document["status"]) != "DONE":
                    assert status not in ("FAILED", "CANCELLED", "EXPIRED"), f"{task_id} is {status}"
                    async with self.http.get(f"{self.url}/api/v1/tasks/{task_id}?wait=20") as answer:
                        document = await answer.json()
                documents.append(document)
        return documents

    def _python(self, module: str, *words: str) -> Command:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TASKFOLD_", "IMAGE_GEN_", "WHISPER_"))
        }
        ours = {f"TASKFOLD_{name.upper()}": str(value) for name, value in self._chosen.items()}
        gpus = {f"IMAGE_GEN_URL_{number}": url for number, url in enumerate(self._gpu_urls, 1)}
        name = "-".join((module, *(word for word in words if word.isalpha())))
        return Command(
            name=name,
            argv=(sys.executable, "-m", module, *words),
            env={"PYTHONPATH": str(ROOT), **inherited, **ours, **gpus},
            log=self.settings.data_path / "logs" / f"{name}.log",
        )

    async def run(self, command: Command, out: int = DEVNULL) -> Process:
        """Start any program; it is ended with the rig, before what was started earlier."""
        with command.log.open("ab") as log:
            process = await spawn(command, out, log)
        self._exits.push_async_callback(_end, process)
        return process


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again until it is so."""
    while not await look():  # noqa: ASYNC110 - another process sends no signal
        await asyncio.sleep(_LOOK_S)


def spent_s(process: psutil.Process) -> float:
    """Give the processor time of a process."""
    spent = process.cpu_times()
    return float(spent.user + spent.system)


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


class Bench:
    """One run of the benchmarks: makes rigs in a folder, and remembers what their processes weighed.

    Of the figures that are being taken, ``syncs`` says how often their servers sync, and ``by_size``
    whether they depend on the size.
    """

    def __init__(self, folder: Path, http: aiohttp.ClientSession, runs: int, size: float = 1.0) -> None:
        self.http = http
        self.runs = runs
        self.memory: list[Memory] = []
        self.syncs: set[str] = set()
        self.by_size = False
        self._size = size
        self._folder = folder

    def begin(self) -> None:
        """Forget what was said of the figures before."""
        self.syncs.clear()
        self.by_size = False

    @property
    def size(self) -> float:
        """Give which part of their full size the large figures are taken at, and note that one is taken."""
        self.by_size = True
        return self._size

    @contextlib.asynccontextmanager
    async def rig(self, **settings: object) -> AsyncIterator[Rig]:
        async with Rig(self._folder / clock.new_name()[:8], self.http, **settings) as rig:
            self.syncs.add(rig.settings.nats_sync)
            yield rig
            self.memory += rig.memory()

    def sized(self, full: float) -> int:
        """Give so many of a large figure's full number, at least one."""
        return max(1, round(full * self.size))

    async def in_turns(
        self, floor: Take, ours: Take, blocks: int = 1
    ) -> tuple[list[Samples], list[Samples]]:
        """Take samples of both for every run, in so many blocks a run, floor first."""
        both: tuple[list[Samples], list[Samples]] = ([], [])
        for _ in range(self.runs):
            for runs in both:
                runs.append([])
            for _ in range(blocks):
                for runs, take in zip(both, (floor, ours), strict=True):
                    runs[-1] += await take()
        return both
