"""Simulated GPUs in a process of their own: ``python -m benchmarks.gpus OPTIONS``, a list of them.

The one rule: what they draw costs the measured processes nothing but their share of the machine.
"""

import asyncio
import contextlib
import sys
from collections.abc import Sequence

import msgspec

from services.gpusim.main import running
from services.gpusim.model import Options


async def main(each: Sequence[Options]) -> None:
    """Run until the end of the process; prints the urls, on one line."""
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(running(options)) for options in each]
        print(*urls, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    # Not on uvloop, whose clock tells whole milliseconds, and the books are kept by the clock of the loop.
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=list[Options])))
