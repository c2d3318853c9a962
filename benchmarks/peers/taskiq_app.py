"""The job on taskiq over JetStream: its worker's broker, and its client.

The one rule: as its documentation says; the stream and the results are on the server that Taskfold has.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from taskiq import ResultGetError
from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

from benchmarks.peers import job
from benchmarks.peers.asking import POLL_S, Submit, Wait

broker = PullBasedJetStreamBroker(
    job.broker(), pull_consume_batch=job.slots(), pull_consume_timeout=5
).with_result_backend(NATSObjectStoreResultBackend(job.broker()))
draw = broker.task(job.draw)


@asynccontextmanager
async def client() -> AsyncIterator[Submit]:
    async def submit(prompt: str) -> Wait:
        task = await draw.kiq(prompt)

        async def wait() -> None:
            while True:
                with suppress(ResultGetError):
                    (await task.get_result()).raise_for_error()
                    return
                await asyncio.sleep(POLL_S)

        return wait

    await broker.startup()
    yield submit
    await broker.shutdown()
