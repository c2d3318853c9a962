"""Real processes for acceptance tests: a nats-server, and any api, projector and dispatchers beside it.

Simulated GPUs run in the test's own process, so that what they saw can be asked for. Every process can be
killed, frozen and started again; all of them end with the test.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from schemas.ids import TaskId
from schemas.task import FINAL
from services import clock
from services.bus.connection import Bus
from services.bus.tasklog import TaskLog
from services.gpusim.model import Fault, Options, ProfileName
from services.process import background
from tests.gpu import Gpu
from tests.nats import NatsServer, free_port
from tests.proxy import Proxy, proxied

FINAL_EVENTS = frozenset({"task.done", "task.failed", "task.cancelled", "task.expired"})
PATIENCE_S = 90.0
LOOK_S = 0.05

Json = dict[str, Any]  # Any: what the api answered
T = TypeVar("T")


async def eventually(
    look: Callable[[], Awaitable[T | None]], what: str, patience_s: float = PATIENCE_S
) -> T:
    """Look again and again until there is something to see, and give it."""
    limit = asyncio.timeout(patience_s)
    try:
        async with limit:
            while not (seen := await look()):  # noqa: ASYNC110 - as said below
                await asyncio.sleep(LOOK_S)  # what is looked at is in another process, and sends no signal
    except TimeoutError:
        if not limit.expired():  # it is the look that took too long
            raise
        raise AssertionError(f"not within {patience_s:g} s: {what}") from None
    return seen


class Process:
    """One of our processes."""

    def __init__(self, name: str, environment: dict[str, str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services", name.partition("-")[0]],
                env=environment,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """End it, however it is."""
        if self._process.poll() is None:
            self.wake()
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    async def ended(self) -> int:
        """Wait for it to end by itself, and give its exit code."""
        return await asyncio.to_thread(self._process.wait, PATIENCE_S)


class Cluster:
    """A nats-server, simulated GPUs, and whatever is started beside them."""

    def __init__(self, folder: Path, http: aiohttp.ClientSession, **settings: object) -> None:
        self.folder = folder
        self.http = http
        self.nats = NatsServer(folder / "nats")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.gpus: dict[str, Gpu] = {}
        self.nats_url = self.nats.url
        self._settings = settings
        self._gpu_urls: dict[str, str] = {}
        self._processes: list[Process] = []
        self._exits = contextlib.AsyncExitStack()

    @property
    def readmodel(self) -> Path:
        return self.folder / "data" / "readmodel.db"

    def environment(self) -> dict[str, str]:
        chosen = {
            "nats_url": self.nats_url,
            "data_dir": self.folder / "data",
            "api_port": self.port,
            "artifact_gib": 1,
            "drain_grace_s": 3,
            **self._settings,
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TASKFOLD_", "IMAGE_GEN_", "WHISPER_"))
        }
        ours = {f"TASKFOLD_{name.upper()}": str(value) for name, value in chosen.items()}
        return {**inherited, **ours, **self._gpu_urls}

    async def gpu(self, variable: str, query: str = "", **options: Any) -> Gpu:  # Any: those of Options
        """Start a simulated GPU and configure it under this variable, with ``query`` behind its url."""
        chosen = {"profile": ProfileName.SDCPP, "step_ms": 0.0, "models": ("qwen-image",), **options}
        gpu = self.gpus[variable] = Gpu(self.http, Options(**chosen))
        await self._exits.enter_async_context(background(gpu.run()))
        await gpu.up()
        self.use(variable, f"{gpu.url}{query}")
        return gpu

    def use(self, variable: str, url: str) -> None:
        """Configure a GPU that runs somewhere else."""
        self._gpu_urls[variable] = url

    async def start(self, *names: str) -> list[Process]:
        """Start processes such as ``api`` or ``dispatcher-2``; init runs before the first of them."""
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        if not self._processes:
            init = Process("init", self.environment(), logs)
            self._processes.append(init)
            assert await init.ended() == 0, init.log.read_text()
        started = [Process(name, self.environment(), logs) for name in names]
        self._processes += started
        if "api" in names:
            await eventually(self._ready, "the api is ready")
        return started

    async def up(self) -> None:
        """Start one of each."""
        await self.start("projector", "dispatcher-1", "api")

    async def _ready(self) -> bool:
        try:
            async with self.http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def ask(self, method: str, path: str, **how: Any) -> tuple[int, Json]:  # Any: aiohttp's own
        async with self.http.request(method, f"{self.url}{path}", **how) as answer:
            return answer.status, await answer.json(content_type=None)

    async def submit(
        self, prompt: str = "a red fox", headers: dict[str, str] | None = None, **members: Any
    ) -> TaskId:  # Any: JSON
        body = {"prompt": prompt, "width": 256, "height": 256, "steps": 4, **members}
        status, answer = await self.ask("POST", "/api/v1/image/async", json=body, headers=headers)
        assert status == 202, answer
        return TaskId(answer["task_id"])

    async def document(self, task_id: TaskId, wait_s: float = 0) -> Json:
        status, document = await self.ask("GET", f"/api/v1/tasks/{task_id}", params={"wait": str(wait_s)})
        assert status == 200, document
        return document

    async def reached(self, task_id: TaskId, *statuses: str) -> Json:
        """Wait until a task is in one of these states."""

        async def look() -> Json | None:
            document = await self.document(task_id)
            return document if document["status"] in statuses else None

        return await eventually(look, f"{task_id} is {' or '.join(statuses)}")

    async def finished(self, task_id: TaskId) -> Json:
        return await self.reached(task_id, *FINAL)

    async def history(self, task_id: TaskId) -> list[Json]:
        accept = {"Accept": "application/json"}
        status, answer = await self.ask("GET", f"/api/v1/tasks/{task_id}/events", headers=accept)
        assert status == 200, answer
        events: list[Json] = answer["events"]
        return events

    async def told(self, task_id: TaskId, event: str, times: int = 1) -> None:
        """Wait until the log says so of a task."""

        async def look() -> bool:
            return types(await self.history(task_id)).count(event) >= times

        await eventually(look, f"{event}, {times} times")

    async def begun(self, gpu: Gpu, **members: Any) -> tuple[TaskId, Process]:  # Any: JSON
        """Start the first dispatcher, and have it begin a job that has an id and does not end by itself."""
        await self.start("projector", "api")
        [dispatcher] = await self.start("dispatcher-1")
        await gpu.script(Fault.HANG)
        task_id = await self.submit(**members)
        await self.told(task_id, "attached")
        await at_work(gpu)
        return task_id, dispatcher

    @contextlib.asynccontextmanager
    async def log(self) -> AsyncIterator[tuple[Bus, TaskLog]]:
        """Give a connection of the test's own to the log."""
        bus = Bus(self.nats.url, "test")
        await bus.connect()
        try:
            yield bus, TaskLog(bus, "/test", clock.now, clock.new_event_id)
        finally:
            await bus.close()

    @contextlib.asynccontextmanager
    async def proxy(self) -> AsyncIterator[Proxy]:
        """Put a proxy between nats-server and what is started from now on."""
        async with proxied("127.0.0.1", self.nats.port) as proxy:
            self.nats_url = f"nats://127.0.0.1:{proxy.port}"
            yield proxy

    async def close(self) -> None:
        # In threads, since a dispatcher that drains still needs its GPU, which is in this process.
        await asyncio.gather(*(asyncio.to_thread(process.end) for process in self._processes))
        await self._exits.aclose()
        self.nats.stop()


async def at_work(gpu: Gpu) -> None:
    async def look() -> bool:
        return (await gpu.stats()).running == 1

    await eventually(look, "the GPU works")


def types(events: list[Json]) -> list[str]:
    return [event["type"].removeprefix("task.") for event in events]


def finals(events: list[Json]) -> list[str]:
    return [event["type"] for event in events if event["type"] in FINAL_EVENTS]
