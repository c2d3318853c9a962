"""The job on Celery over Redis: its app, and its client.

The one rule: as its documentation says for jobs that wait for others, in threads; a task is acknowledged
when it is done, which is not its default.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from celery import Celery

from benchmarks.peers import job
from benchmarks.peers.asking import Submit, Wait

app = Celery("peers", broker=job.broker(), backend=job.broker())
app.conf.update(
    task_acks_late=True,
    worker_concurrency=job.slots(),
    worker_pool="threads",
)
draw = app.task(job.draw_in_thread, name="draw")


@asynccontextmanager
async def client() -> AsyncIterator[Submit]:
    async def submit(prompt: str) -> Wait:
        result = draw.delay(prompt)

        async def wait() -> None:
            result.get()

        return wait

    yield submit
