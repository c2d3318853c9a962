"""The job on saq over Redis: its worker's settings, and its client.

The one rule: as its documentation says; the client is told of an end, and reads the job then.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from saq import Queue, Status

from benchmarks.peers import job
from benchmarks.peers.asking import Submit, Wait

_LOOK_S = 1.0
"""After so long the client reads the job anyhow; it may have ended before it listened."""

_RETRIES = 5
"""By default none; a sweep of its worker takes what is just being started for stuck, and would abort it."""

queue = Queue.from_url(job.broker())


async def draw(_context: dict[str, Any], *, prompt: str) -> str:  # Any: saq's own
    return await job.draw(prompt)


settings = {"queue": queue, "functions": [draw], "concurrency": job.slots()}


@asynccontextmanager
async def client() -> AsyncIterator[Submit]:
    async def submit(prompt: str) -> Wait:
        queued = await queue.enqueue("draw", prompt=prompt, retries=_RETRIES)
        assert queued is not None

        async def wait() -> None:
            while not queued.completed:
                with suppress(TimeoutError):
                    await queued.refresh(until_complete=_LOOK_S)
            assert queued.status == Status.COMPLETE, queued.error

        return wait

    await queue.connect()
    yield submit
    await queue.disconnect()
