"""An api for tests: in this process and loop, on a free port, over a real nats-server."""

import asyncio
import contextlib
import io
import struct
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from msgspec.structs import replace

from schemas import registry
from schemas.events import (
    Artifact,
    TaskDone,
    TaskError,
    TaskEvent,
    TaskFailed,
    TaskStarted,
    Usage,
)
from schemas.ids import ArtifactId, BackendId, TaskId
from schemas.registry import Backend
from schemas.requests import Kind
from schemas.subjects import BACKENDS
from services import clock
from services.api import main as api
from services.artifacts import ArtifactInfo, ArtifactStore
from services.bus.buckets import Bucket
from services.bus.connection import Bus
from services.bus.tasklog import TaskLog
from services.init.main import prepare
from services.projector import main as projector
from services.settings import Settings
from tests.nats import NatsServer

Serve = Callable[[Settings, asyncio.Event], Awaitable[None]]
Json = dict[str, Any]  # Any: JSON


@contextlib.asynccontextmanager
async def beside(serve: Serve, settings: Settings) -> AsyncIterator[None]:
    """Run a process's main beside the block, and stop it as a signal would."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_run(serve, settings, stop))
        try:
            yield
        finally:
            stop.set()


async def _run(serve: Serve, settings: Settings, stop: asyncio.Event) -> None:
    await serve(settings, stop)


@contextlib.asynccontextmanager
async def running_api(settings: Settings) -> AsyncIterator[str]:
    """Run an api and give its url."""
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(settings: Settings, stop: asyncio.Event) -> None:
        await api.serve(settings, stop, url.set_result)

    async with beside(serve, replace(settings, api_port=0)):
        yield await url


class Rig:
    """An api with what it needs, and a hand that does a dispatcher's part."""

    def __init__(self, url: str, bus: Bus, session: aiohttp.ClientSession, settings: Settings) -> None:
        self.url = url
        self.bus = bus
        self.session = session
        self.settings = settings
        self.tasklog = TaskLog(bus, "taskfold/test", clock.now, clock.new_event_id)
        self.store = ArtifactStore(bus)

    async def ask(self, method: str, path: str, **more: Any) -> "Reply":  # Any: as aiohttp takes them
        async with self.session.request(method, self.url + path, allow_redirects=False, **more) as answer:
            return Reply(answer.status, answer.headers.copy(), await answer.read())

    async def submit(self, **body: Any) -> TaskId:  # Any: JSON
        reply = await self.ask("POST", "/api/v1/image/async", json={"prompt": "a red fox", **body})
        assert reply.status == 202, reply.body
        return TaskId(reply.json["task_id"])

    async def append(self, task_id: TaskId, event: TaskEvent) -> int:
        """Append an event after whatever is there."""
        found = await self.tasklog.lookup(task_id)
        assert found.address is not None
        return await self.tasklog.append(found.address, event, expected=found.last, patience_s=5)

    async def start(self, task_id: TaskId) -> int:
        return await self.append(
            task_id, TaskStarted(attempt=1, backend=BackendId("image-1"), dispatcher="test")
        )

    async def fail(self, task_id: TaskId) -> int:
        return await self.append(task_id, TaskFailed(error=TaskError(code="boom", message="it broke")))

    async def finish(
        self, task_id: TaskId, content: bytes = b"\x89PNG not really", keep: timedelta | None = None
    ) -> ArtifactInfo:
        info = await self.keep(f"{task_id}-1-0", content, keep=keep)
        artifact = Artifact(
            artifact_id=info.artifact_id, media_type="image/png", bytes=info.size, sha256=info.sha256
        )
        await self.append(task_id, TaskDone(attempt=1, artifacts=(artifact,), usage=Usage(run_s=1.0)))
        return info

    async def keep(
        self, name: str, content: bytes, media_type: str = "image/png", keep: timedelta | None = None
    ) -> ArtifactInfo:
        async def pieces() -> AsyncIterator[bytes]:
            yield content

        return await self.store.put(
            ArtifactId(name),
            pieces(),
            nuid=clock.new_name(),
            now=clock.now(),
            media_type=media_type,
            keep=keep,
        )

    async def know_model(self, kind: Kind = Kind.IMAGE, *models: str) -> None:
        """Put a backend with these models into the registry, and wait until the api has seen it."""
        backend = Backend(name=BackendId(f"{kind}-9"), url="http://127.0.0.1:9", kind=kind, models=models)
        bucket = Bucket(self.bus, BACKENDS)
        entry = await bucket.get(backend.name)
        await bucket.replace(backend.name, registry.encode(backend), entry.revision)

        async def seen() -> bool:
            body = {"kind": kind, "request": {"prompt": "x", "model": "no-such-model"}}
            if kind is Kind.SPEECH:
                body["request"] = {"artifact": "x", "model": "no-such-model"}
            reply = await self.ask("POST", "/api/v1/tasks", json=body)
            return set(models) <= set(reply.json["allowed"])

        await eventually(seen)

    async def objects(self) -> int:
        """How many chunks and living descriptions the artifact store holds."""
        info = await self.bus.api("STREAM.INFO.OBJ_ARTIFACTS", {"subjects_filter": "$O.ARTIFACTS.C.>"})
        return sum((info["state"].get("subjects") or {}).values())

    async def stored_tasks(self) -> int:
        info = await self.bus.api("STREAM.INFO.TASKS", {"subjects_filter": "task.*.*.*.*.*.submitted"})
        return sum((info["state"].get("subjects") or {}).values())


class Reply:
    """An answer, read to its end."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:  # Any: aiohttp's
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:  # Any: JSON
        return msgspec.json.decode(self.body)

    def refusal(self) -> tuple[int, str, str | None]:
        """Give status, code and member of a problem document."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        assert self.json["status"] == self.status
        return self.status, self.json["code"], self.json.get("member")


@contextlib.asynccontextmanager
async def running(settings: Settings, *, projected: bool = True) -> AsyncIterator[Rig]:
    """Run an api, and a projector unless it should be without, over the server that the settings name."""
    bus = Bus(settings.bus_url, "test")
    await bus.connect()
    try:
        await prepare(bus, settings)
        async with contextlib.AsyncExitStack() as stack:
            if projected:
                await stack.enter_async_context(beside(projector.serve, settings))
            url = await stack.enter_async_context(running_api(settings))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            rig = Rig(url, bus, session, settings)
            await until_ready(rig, projected=projected)
            yield rig
    finally:
        await bus.close()


async def until_ready(rig: Rig, *, projected: bool) -> None:
    async def ready() -> bool:
        reply = await rig.ask("GET", "/readyz")
        reasons = reply.json["reasons"]
        return not reasons if projected else not any("NATS" in reason for reason in reasons)

    await eventually(ready)


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float = 15) -> None:
    """Wait for a condition; it is looked at as often as it takes."""
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 - the condition is on the other side of a network
            await asyncio.sleep(0.005)


def settings_for(server: NatsServer, folder: Path, **more: Any) -> Settings:  # Any: of each setting
    return Settings(nats_url=server.url, data_dir=str(folder / "data"), **more)


def wav(seconds: float = 0.1, rate: int = 16_000) -> bytes:
    """Record silence."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack("<h", 0) * int(seconds * rate))
    return content.getvalue()


def form(**fields: str | bytes) -> aiohttp.FormData:
    """Make a multipart form; bytes become the file."""
    data = aiohttp.FormData(quote_fields=False)
    for name, value in fields.items():
        if isinstance(value, bytes):
            data.add_field(name, value, filename="memo.wav", content_type="application/octet-stream")
        else:
            data.add_field(name, value, content_type="text/plain")
    return data
