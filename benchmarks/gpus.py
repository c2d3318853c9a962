"""Simulated GPUs in a process of their own: ``python -m benchmarks.gpus COUNT OPTIONS``.

The one rule: what they draw costs the measured processes nothing but their share of the machine.
"""

import asyncio
import contextlib
import sys

import msgspec
from msgspec.structs import replace

from services.gpusim.main import running
from services.gpusim.model import Options


async def main(count: int, options: Options) -> None:
    """Run until the end of the process; prints the urls, on one line."""
    async with contextlib.AsyncExitStack() as stack:
        urls = [
            await stack.enter_async_context(running(replace(options, seed=options.seed + number)))
            for number in range(count)
        ]
        print(*urls, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    # Not on uvloop, whose clock tells whole milliseconds, and the books are kept by the clock of the loop.
    asyncio.run(main(int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Options)))
