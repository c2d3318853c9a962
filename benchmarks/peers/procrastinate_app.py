"""The job on procrastinate over PostgreSQL: its app, and its client.

The one rule: as its documentation says; it keeps no results, so the job puts the picture into a table.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from procrastinate import App, JobContext, PsycopgConnector
from procrastinate.jobs import Status

from benchmarks.peers import job
from benchmarks.peers.asking import POLL_S, Submit, Wait

TABLE: Final = "CREATE TABLE IF NOT EXISTS pictures (job_id bigint PRIMARY KEY, picture text NOT NULL)"
KEEP: Final = (
    "INSERT INTO pictures VALUES (%(job_id)s, %(picture)s)"
    " ON CONFLICT (job_id) DO UPDATE SET picture = excluded.picture"
)
_CONNECTIONS: Final = job.slots() + 2

app = App(
    connector=PsycopgConnector(conninfo=job.broker(), max_size=_CONNECTIONS),
    worker_defaults={"concurrency": job.slots()},
)


async def _draw(context: JobContext, prompt: str) -> None:
    picture = await job.draw(prompt)
    await app.connector.execute_query_async(KEEP, job_id=context.job.id, picture=picture)


draw = app.task(_draw, name="draw", pass_context=True)


@asynccontextmanager
async def client() -> AsyncIterator[Submit]:
    async def submit(prompt: str) -> Wait:
        job_id = await draw.defer_async(prompt=prompt)

        async def wait() -> None:
            while (status := await app.job_manager.get_job_status_async(job_id)) != Status.SUCCEEDED:
                assert status in {Status.TODO, Status.DOING}, status
                await asyncio.sleep(POLL_S)

        return wait

    async with app.open_async():
        await app.connector.execute_query_async(TABLE)
        yield submit
