"""The least that could do the same, each in a process of its own; and a writer for the background.

The one rule: the same server, settings and client as ours, and nothing beside the one step measured.
"""

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import AsyncIterator

import nats
import nats.aio.client
import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.params import FromPath
from msgspec import Struct, json

from schemas import subjects
from schemas.events import TaskSubmitted
from schemas.requests import ImageRequest, ImageSubmission
from schemas.subjects import Address, Lane
from services import clock
from services.bus.connection import Bus
from services.bus.tasklog import TaskLog


class Body(Struct):
    prompt: str


decode = json.Decoder(Body).decode


def submit(nats_url: str, port: str) -> None:
    """Decode a small body, await one publish, answer 202."""
    client = nats.aio.client.Client()

    @contextlib.asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await client.connect(nats_url)
        yield
        await client.close()

    @post("/floor", status_code=202)
    async def floor(request: Request) -> Response[bytes]:  # type: ignore[type-arg]  # of no use here
        body = await request.body()
        decode(body)
        task_id = clock.new_task_id()
        await client.request(f"floor.{task_id}", body, timeout=2)
        return Response(b'{"task_id":"%b"}' % task_id.encode(), media_type="application/json")

    run(Litestar([floor], lifespan=[lifespan], openapi_config=None, logging_config=None), port)


def status(path: str, port: str) -> None:
    """Read one row by its key and answer with the document in it."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)

    @get("/floor/{task_id:str}")
    async def floor(task_id: FromPath[str]) -> Response[bytes]:
        row = database.execute("SELECT doc FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        return Response(row[0], media_type="application/json")

    run(Litestar([floor], openapi_config=None, logging_config=None), port)


def run(app: Litestar, port: str) -> None:
    config = uvicorn.Config(
        app, port=int(port), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
    uvicorn.Server(config).run()


def writer(nats_url: str, rate: str) -> None:
    """Submit tasks into the log at a rate, for as long as it lives."""

    async def write() -> None:
        bus = Bus(nats_url, "writer")
        await bus.connect()
        log = TaskLog(bus, "/benchmark", clock.now, clock.new_event_id)
        event = TaskSubmitted(submission=ImageSubmission(request=ImageRequest(prompt="a fox", seed=1)))
        while True:
            where = Address(Lane("image", "any", "low", 0), clock.new_task_id())
            await log.append(where, event, expected=0, patience_s=5)
            await asyncio.sleep(1 / float(rate))

    asyncio.run(write())


def stream() -> dict[str, object]:
    """Give a stream as TASKS is, for the floor's own subjects."""
    tasks = subjects.streams(max_age_days=14, artifact_bytes=2**30)[0]
    return {**tasks, "name": "FLOOR", "subjects": ["floor.>"], "republish": None}


if __name__ == "__main__":
    {"submit": submit, "status": status, "writer": writer}[sys.argv[1]](*sys.argv[2:])
