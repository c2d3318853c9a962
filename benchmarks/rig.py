"""The processes that a benchmark needs: a cluster, floors beside it, simulated GPUs."""

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp

from services.gpusim.control import Control
from tests.cluster import Cluster, eventually
from tests.nats import free_port


@contextlib.asynccontextmanager
async def cluster(**settings: object) -> AsyncIterator[Cluster]:
    """Start a nats-server in a folder of its own; what else runs is up to the benchmark."""
    with tempfile.TemporaryDirectory(prefix="taskfold-bench-") as folder:
        async with aiohttp.ClientSession() as http:
            made = Cluster(Path(folder), http, queue_limit=1_000_000, **settings)
            made.nats.start()
            try:
                yield made
            finally:
                await made.close()


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[None]:
    child = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.terminate()
        child.wait(10)


async def listening(port: int) -> None:
    async def look() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await eventually(look, f"something listens on {port}")


@contextlib.asynccontextmanager
async def floor(name: str, argument: str) -> AsyncIterator[int]:
    """Start a floor and give its port."""
    port = free_port()
    with process("benchmarks.floors", name, argument, str(port)):
        await listening(port)
        yield port


@contextlib.asynccontextmanager
async def gpu(made: Cluster, variable: str, profile: str, step_ms: float) -> AsyncIterator[Control]:
    """Start a simulated GPU in its own process, so that drawing takes no time from the dispatcher."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with process("services", "gpusim", profile, "--port", str(port), "--step-ms", str(step_ms)):
        await listening(port)
        made.use(variable, url)
        yield Control(made.http, url)
