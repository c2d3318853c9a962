"""Having a read model built: in a process of its own, so that what serves meanwhile is not slowed down.

The one rule: what comes back is a whole file, or an error and no file.
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from schemas.errors import TaskfoldError
from services.projector.build import Order, Progress, build

_SHORT: Final = 10_000
"""So few events are folded sooner than a process is started."""
_decode: Final = msgspec.json.Decoder(Progress).decode


class BuildError(TaskfoldError):
    """The file could not be built; the text says why."""


async def build_file(order: Order, events: int, tell: Callable[[Progress], None]) -> None:
    """Build what the order says, of a log of about so many events; BuildError if it cannot be done."""
    try:
        if events < _SHORT:
            await build(order, tell)
        else:
            await _beside(order, tell)
    except BaseException:
        for end in ("", "-wal", "-shm"):
            Path(order.path + end).unlink(missing_ok=True)  # noqa: ASYNC240 - it is quick
        raise


async def _beside(order: Order, tell: Callable[[Progress], None]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.projector.build"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        whole = await _converse(process, order, tell)
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code or not whole:
        raise BuildError(f"the builder ended with {code}; the log of the projector says why")


async def _converse(
    process: asyncio.subprocess.Process, order: Order, tell: Callable[[Progress], None]
) -> bool:
    """Give the order and hear how far it is; whether the file became whole."""
    if process.stdin is None or process.stdout is None:
        raise TypeError("both were asked for")
    with contextlib.suppress(ConnectionError):  # its exit code says more
        process.stdin.write(msgspec.json.encode(order))
        await process.stdin.drain()
        process.stdin.close()
    whole = False
    async for line in process.stdout:
        progress = _decode(line)
        tell(progress)
        whole = progress.sequence is not None
    return whole
