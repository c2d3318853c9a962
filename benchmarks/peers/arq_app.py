"""The job on arq over Redis: its worker's settings, and its client.

The one rule: as its documentation says, but for how often it looks for work: half a second by default.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.peers import job
from benchmarks.peers.asking import POLL_S, Submit, Wait

redis = RedisSettings.from_dsn(job.broker())


async def draw(_context: dict[str, Any], prompt: str) -> str:  # Any: arq's own
    return await job.draw(prompt)


class Worker:
    functions = (draw,)
    redis_settings = redis
    max_jobs = job.slots()
    poll_delay = POLL_S


@asynccontextmanager
async def client() -> AsyncIterator[Submit]:
    pool = await create_pool(redis)

    async def submit(prompt: str) -> Wait:
        queued = await pool.enqueue_job("draw", prompt)
        assert queued is not None

        async def wait() -> None:
            await queued.result(poll_delay=POLL_S)

        return wait

    yield submit
    await pool.aclose()
