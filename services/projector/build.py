"""Makes a read model in a process of its own: an order on standard input, its progress on standard output.

The one rule: it ends with a whole file and the line that says so, or with neither.
"""

import asyncio
import gc
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from schemas import views, writing
from schemas.subjects import TASK_EVENTS, TASKS, address_of
from services import telemetry
from services.bus.bulk import BulkBus, BulkFollower
from services.bus.stored import recorded
from services.process import background
from services.projector.building import Building
from services.projector.folding import Told

log = structlog.get_logger()

TELL_S: Final = 0.5
_NICE: Final = 5


class Order(Struct, frozen=True, kw_only=True):
    """``path``: the file to be made. ``older``: files to take from what the log no longer has.

    ``stream``: its identity; ``first``: its first sequence.
    """

    url: str
    name: str
    path: str
    stream: str
    first: int
    older: tuple[str, ...] = ()


class Progress(Struct, frozen=True, kw_only=True):
    """``events`` of about ``of`` are folded; ``sequence``: the checkpoint, once the file is whole."""

    events: int
    of: int
    sequence: int | None = None


class _Follower(BulkFollower):
    """Asks for more at a time, since nobody waits for any one of them."""

    _pull = 5000


def carry_over(building: Building, order: Order) -> int:
    """Fold what came before the log's first message anew; gives how far old events were dropped on purpose.

    From the first of the older files that is of the same stream. What cannot be read of it is lost.
    """
    for file in order.older:
        try:
            older = _opened(Path(file))
            checkpoint = older.execute(writing.OLDER_CHECKPOINT).fetchone()
            if checkpoint is None or checkpoint[0] != order.stream:
                continue
            building.take(_history(older, order.first))
            building.take_batches(older.execute(writing.OLDER_BATCHES, (order.first,)).fetchall())
        except sqlite3.Error as error:
            log.warning("readmodel.older_unreadable", file=file, error=str(error))
            continue
        return int(checkpoint[1])
    return 0


def _opened(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _history(older: sqlite3.Connection, first: int) -> Iterator[Told]:
    """Give the events that the log no longer has, of tasks that began before it does."""
    for address, wire in older.execute(writing.OLDER_EVENTS, (first, first)):
        yield address_of(address), views.recorded(wire)


async def build(order: Order, tell: Callable[[Progress], None]) -> None:
    """Make the file, and tell now and then how far it is."""
    bus = BulkBus(order.url, order.name)
    await bus.connect()
    building = Building(Path(order.path), order.stream)
    pruned = carry_over(building, order)
    carried, of, told_at = building.events, 0, monotonic()
    follower = _Follower(bus, TASKS, TASK_EVENTS, order.name, 1)

    async def fill() -> None:
        nonlocal of, told_at
        async for batch in follower.batches():
            of = max(of, building.events - carried + len(batch) + batch[-1].pending)
            building.take(map(recorded, batch))
            if monotonic() - told_at > TELL_S:
                told_at = monotonic()
                tell(Progress(events=building.events - carried, of=of))

    async with background(fill()):
        await follower.caught_up.wait()
    await bus.close()
    events = building.events - carried
    tell(Progress(events=events, of=events))
    tell(Progress(events=events, of=events, sequence=building.finish(pruned)))


def _write(progress: Progress) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    telemetry.configure("projector", "warning", "text")
    os.nice(_NICE)  # who reads comes first
    gc.disable()  # a million tasks are no garbage, and the process ends with its file
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    asyncio.run(build(order, _write))


if __name__ == "__main__":
    main()
