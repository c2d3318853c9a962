"""The least that a program could do in the place of ours, each a process: ``python -m benchmarks.floors``.

The one rule: the same server, the same stream configuration and the same uvicorn settings as ours have.
"""

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import nats
import uvloop
from litestar import Litestar, Response, get, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct
from nats.aio.client import Client

from schemas import subjects
from services import clock, process
from services.api import server
from services.bus.connection import Bus
from services.bus.streams import ensure_stream

STREAM: Final = "FLOOR"
LANE: Final = "floor"


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


async def status(readmodel: str) -> None:
    """Read one row by its key and answer with the document that stands in it."""
    connection = sqlite3.connect(f"{Path(readmodel).as_uri()}?mode=ro", uri=True, isolation_level=None)

    @get("/tasks/{task_id:str}")
    async def show(task_id: str) -> Response[bytes]:
        row = connection.execute("SELECT doc FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        return Response(row[0], media_type="application/json")

    await _serve(show)


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
    "status": status,
    "work": work,
}

if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(FLOORS[sys.argv[1]](sys.argv[2]))  # type: ignore[arg-type]  # they are coroutines
