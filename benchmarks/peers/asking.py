"""What a client does, whatever it asks: ``python -m benchmarks.peers.asking PEER BURST CALM``.

The one rule: one loop measures every peer and Taskfold, and a task is over when its client has been told
that the picture is kept.
"""

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

PROMPT: Final = "a red fox"
WARM_UP: Final = 40
POLL_S: Final = 0.005
"""How often a client looks whether a task is done, where it is told in no other way."""

_COLLECTORS: Final = 8
_SHORTEST_S: Final = 0.02
_VARIED_S: Final = 0.04
_GOLDEN: Final = 0.618034

Wait = Callable[[], Awaitable[None]]
"""Waits until one task is done, and fails when it has failed."""

Submit = Callable[[str], Awaitable[Wait]]
"""Submits a task of this prompt, and returns once the peer says that it has it."""


async def in_burst(submit: Submit, count: int) -> float:
    """Submit so many one after the other, and wait for all; seconds."""
    began = time.perf_counter()
    waits = iter([await submit(PROMPT) for _ in range(count)])

    async def collect() -> None:
        for wait in waits:
            await wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(_COLLECTORS):
            group.create_task(collect())
    return time.perf_counter() - began


async def calmly(submit: Submit, count: int) -> list[float]:
    """Have one picture drawn after the other, at about twenty a second; milliseconds each.

    The pauses differ, so that they never keep step with a worker that looks for work at its own pace.
    """
    samples = []
    for number in range(count):
        await asyncio.sleep(_SHORTEST_S + _VARIED_S * (number * _GOLDEN % 1))
        began = time.perf_counter()
        wait = await submit(PROMPT)
        await wait()
        samples.append((time.perf_counter() - began) * 1000)
    return samples


async def main(peer: str, burst: int, calm: int) -> None:
    """Print a line when all is warm, the seconds of the burst, and the milliseconds of the calm tasks."""
    app = importlib.import_module(f"benchmarks.peers.{peer}_app")
    async with app.client() as submit:
        await in_burst(submit, WARM_UP)
        print("warm", flush=True)
        print(await in_burst(submit, burst), flush=True)
        print(json.dumps(await calmly(submit, calm)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
