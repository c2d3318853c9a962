"""The least that a program could do in the place of ours, each a process: ``python -m benchmarks.floors``.

The one rule: the same server, the same stream configuration and the same uvicorn settings as ours have.
"""

import asyncio
import contextlib
import sqlite3
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import nats
import uvloop
from litestar import Litestar, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks.writer import LIMITS
from schemas import envelope, events, intake, subjects
from schemas.events import TaskSubmitted
from schemas.requests import Kind
from services import clock, process
from services.api import server
from services.bus.connection import Bus
from services.bus.streams import ensure_stream

STREAM: Final = "FLOOR"
LANE: Final = "floor"
ALL: Final = "all"
"""Stands for the id of a task where all are followed."""


class Body(Struct, frozen=True):
    prompt: str
    width: int = 1024
    height: int = 1024
    steps: int = 20


class Accepted(Struct, frozen=True):
    task_id: str
    status: str = "QUEUED"


async def prepare(bus: Bus) -> None:
    """Make the floor's stream, the twin of TASKS, and the one consumer of its worker."""
    tasks = next(
        s for s in subjects.streams(max_age_days=14, artifact_bytes=1) if s["name"] == subjects.TASKS
    )
    republish = {**tasks["republish"], "src": "floor.>", "dest": "floorwake.>"}
    twin = {**tasks, "name": STREAM, "subjects": ["floor.>", "floorsched.>"], "republish": republish}
    await ensure_stream(bus, twin)
    config = {**subjects.Lane("k", "m", "p", 0).consumer, "name": LANE, "durable_name": LANE}
    wanted = {**config, "filter_subject": "floor.*.submitted"}
    body = {"stream_name": STREAM, "config": wanted, "action": "create"}
    await bus.api(f"CONSUMER.CREATE.{STREAM}.{LANE}.floor.*.submitted", body)


async def submit(nats_url: str) -> None:
    """Decode a body, await one publish, answer 202."""
    nc = await nats.connect(nats_url)
    stream = nc.jetstream()

    @post("/submit", status_code=202)
    async def accept(data: Body) -> Response[Accepted]:
        task_id = clock.new_task_id()
        await stream.publish(f"floor.{task_id}.submitted", msgspec.json.encode(data))
        headers = {"location": f"/tasks/{task_id}", "retry-after": "1"}
        return Response(Accepted(task_id), headers=headers)

    await _serve(accept)


async def guarded(nats_url: str) -> None:
    """Do the same with the message that ours stores: its headers, its guard, in TASKS, for the projector.

    Nothing is worked out for a request but ids and headers.
    """
    nc = await nats.connect(nats_url)
    stream = nc.jetstream()
    body = intake.flat(Kind.IMAGE, msgspec.to_builtins(Body("a red fox in the snow, early light")))
    made = intake.submission(
        body, now=clock.now(), seed=1, limits=LIMITS, tenant="default", fingerprint="0" * 64
    )
    event = TaskSubmitted(submission=made)
    content = events.encode(event)
    lane = subjects.Lane(made.kind, made.model, made.priority, 0)

    @post("/submit", status_code=202)
    async def accept(data: Body) -> Response[Accepted]:  # noqa: ARG001 - it is decoded for it
        address = subjects.Address(lane, clock.new_task_id())
        named = envelope.attributes(
            event,
            task_id=address.task_id,
            event_id=clock.new_event_id(),
            source="/floor",
            at=clock.now(),
        )
        guard = envelope.guarded(0, address.guard)
        await stream.publish(address.subject(TaskSubmitted), content, headers={**named, **guard})
        headers = {"location": f"/tasks/{address.task_id}", "retry-after": "1"}
        return Response(Accepted(address.task_id), headers=headers)

    await _serve(accept)


async def status(readmodel: str) -> None:
    """Read one row by its key and answer with the document that stands in it."""
    connection = sqlite3.connect(f"{Path(readmodel).as_uri()}?mode=ro", uri=True, isolation_level=None)

    @get("/tasks/{task_id:str}")
    async def show(task_id: str) -> Response[bytes]:
        row = connection.execute("SELECT doc FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        return Response(row[0], media_type="application/json")

    await _serve(show)


async def endpoint(gpu_url: str) -> None:
    """Have a picture made while its client waits, one at a time, as people put it before a GPU."""
    gpu = asyncio.Lock()
    http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))

    @post("/image", status_code=200)
    async def make(data: Body) -> Response[bytes]:
        size = f"{data.width}x{data.height}"
        wanted = {"prompt": data.prompt, "size": size, "num_inference_steps": data.steps}
        async with gpu, http.post(f"{gpu_url}/v1/images/generations", json=wanted) as answer:
            return Response(await answer.read(), status_code=answer.status, media_type="application/json")

    await _serve(make)


async def follow(nats_url: str) -> None:
    """Give every message that is stored, as it is, to whoever follows its task or all tasks, at once."""
    nc = await nats.connect(nats_url)
    following = defaultdict[str, set[asyncio.Queue[bytes]]](set)

    async def give(message: Msg) -> None:
        frame = b"data: %b\n\n" % message.data
        for queue in following[ALL] | following[message.subject.split(".")[1]]:
            queue.put_nowait(frame)

    await nc.jetstream().subscribe("floor.>", stream=STREAM, ordered_consumer=True, cb=give)

    @get("/events/{task_id:str}")
    async def events(task_id: str) -> Stream:
        queue = asyncio.Queue[bytes]()
        following[task_id].add(queue)
        return Stream(_frames(queue), media_type="text/event-stream")

    await _serve(events)


async def _frames(queue: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
    yield b"retry: 2000\n\n"
    while True:
        yield await queue.get()


async def work(nats_url: str) -> None:
    """Wait in a pull of one ticket, say at once that it was started, ack, and wait again."""
    nc: Client = await nats.connect(nats_url)
    stream = nc.jetstream()
    tickets = await stream.pull_subscribe_bind(LANE, STREAM)
    print("works", flush=True)
    while True:
        with contextlib.suppress(TimeoutError):
            for ticket in await tickets.fetch(1, timeout=5):
                await stream.publish(ticket.subject.replace("submitted", "started"), b"{}")
                await ticket.ack()


async def _serve(handler: HTTPRouteHandler) -> None:
    bound = server.listen("127.0.0.1", 0)
    app = Litestar([handler], openapi_config=None, logging_config=None)
    print(server.url_of(bound), flush=True)
    process.settle_garbage()
    await server.Server(app, lambda: None).serve(sockets=[bound])


FLOORS: Final[dict[str, Callable[[str], Awaitable[Any]]]] = {  # Any: what they give is of no use
    "submit": submit,
    "guarded": guarded,
    "status": status,
    "endpoint": endpoint,
    "follow": follow,
    "work": work,
}

if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(FLOORS[sys.argv[1]](sys.argv[2]))  # type: ignore[arg-type]  # they are coroutines
