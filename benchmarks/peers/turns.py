"""One contender's turn: a burst of tasks, then single ones, by the same client loop for each.

The one rule: processor time is that of everything which serves a task and is neither its client nor a GPU.
"""

import asyncio
import os
import time
from asyncio.subprocess import PIPE
from typing import Final

import msgspec
from msgspec import Struct

from benchmarks.gaps import openai, submitted
from benchmarks.measure import Samples
from benchmarks.peers import asking, job
from benchmarks.peers.asking import PROMPT, WARM_UP, Wait
from benchmarks.peers.brokers import tree_s
from benchmarks.peers.roster import Peer
from benchmarks.rig import ROOT, Rig
from services.up.tree import Command

PATIENCE_S: Final = 300.0
_OTHERS: Final = ("client", "gpus")


class Sizes(Struct, frozen=True):
    """Tasks of a burst, and calm ones."""

    burst: int
    calm: int


class Turn(Struct, frozen=True):
    """``calm_ms``: of each single task, from its submission to its end; ``cpu_ms``: of one of the burst."""

    tasks_a_second: float
    calm_ms: Samples
    cpu_ms: float


async def floor(rig: Rig, urls: list[str], sizes: Sizes) -> Turn:
    """Ask the GPUs without any queue; the processor time is that of this process, which does it all."""

    async def submit(prompt: str) -> Wait:
        async def wait() -> None:
            await openai(rig, urls[0], prompt, job.SIDE)

        return wait

    await _directly(rig, urls, WARM_UP)
    before_s = time.process_time()
    took_s = await _directly(rig, urls, sizes.burst)
    cpu_s = time.process_time() - before_s
    return Turn(sizes.burst / took_s, await asking.calmly(submit, sizes.calm), _each_ms(cpu_s, sizes.burst))


async def taskfold(rig: Rig, sizes: Sizes) -> Turn:
    await rig.start("projector", "dispatcher", "api")
    async with rig.connection() as connection:

        async def submit(prompt: str) -> Wait:
            task_id = await submitted(connection, prompt, job.SIDE)

            async def wait() -> None:
                await rig.finish([task_id])

            return wait

        await asking.in_burst(submit, WARM_UP)
        before_s = _taskfold_s(rig)
        took_s = await asking.in_burst(submit, sizes.burst)
        cpu_s = _taskfold_s(rig) - before_s
        calm_ms = await asking.calmly(submit, sizes.calm)
    return Turn(sizes.burst / took_s, calm_ms, _each_ms(cpu_s, sizes.burst))


async def peer(rig: Rig, peer: Peer, python: str, urls: list[str], sizes: Sizes) -> Turn:
    """Start a peer's broker and worker, and have its client measure."""
    async with peer.broker(rig) as broker:
        told = {job.BROKER: broker.url, job.GPUS: " ".join(urls)}

        def command(name: str, module: str, *words: str) -> Command:
            log = rig.settings.data_path / "logs" / f"{peer.name}-{name}.log"
            env = {**os.environ, "PYTHONPATH": str(ROOT), **told}
            return Command(name=name, argv=(python, "-m", module, *words), env=env, log=log)

        if peer.prepare:
            preparing = command("prepare", *peer.prepare)
            assert await (await rig.run(preparing)).wait() == 0, f"see {preparing.log}"
        worker = await rig.run(command("worker", *peer.worker))
        counts = (str(sizes.burst), str(sizes.calm))
        client = await rig.run(command("client", "benchmarks.peers.asking", peer.name, *counts), PIPE)
        await rig.said(client, PATIENCE_S)
        before_s = broker.spent_s() + tree_s(worker)
        took_s = float(await rig.said(client, PATIENCE_S))
        cpu_s = broker.spent_s() + tree_s(worker) - before_s
        calm_ms = msgspec.json.decode(await rig.said(client, PATIENCE_S), type=Samples)
    return Turn(sizes.burst / took_s, calm_ms, _each_ms(cpu_s, sizes.burst))


async def _directly(rig: Rig, urls: list[str], count: int) -> float:
    """Have so many drawn by a loop for each GPU; seconds."""
    began = time.perf_counter()
    turns = iter(range(count))

    async def loop(url: str) -> None:
        for _ in turns:
            await openai(rig, url, PROMPT, job.SIDE)

    async with asyncio.TaskGroup() as group:
        for url in urls:
            group.create_task(loop(url))
    return time.perf_counter() - began


def _taskfold_s(rig: Rig) -> float:
    return sum(spent_s for name, spent_s in rig.cpu_s().items() if name not in _OTHERS)


def _each_ms(cpu_s: float, tasks: int) -> float:
    return cpu_s / tasks * 1000
