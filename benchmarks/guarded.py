"""The writes of tasks and nothing else, as fast as they go: ``python -m benchmarks.guarded``.

The one rule: headers, bodies and guards are those of a task that went through Taskfold, and the stream is
the twin of its log; there is no HTTP, no GPU and no queue.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import nats
import uvloop
from msgspec import Struct
from nats.js import JetStreamContext

from schemas import envelope
from schemas.ids import TaskId
from schemas.subjects import TASKS, any_guard, parse_subject
from services import clock, process
from services.bus.connection import Bus
from services.bus.stored import Stored, from_direct_get

_OWN: Final = "Nats-"
"""What the headers begin with that a direct get adds, and those that differ each time: guard and id."""


class Write(Struct, frozen=True):
    """One write of a task: ``token`` names the event."""

    token: str
    headers: dict[str, str]
    body: bytes


class Writes(Struct, frozen=True):
    """What every task of the floor writes, in this order. ``prefix``: of its subjects, less its id."""

    prefix: str
    each: list[Write]


async def of_task(bus: Bus, task_id: TaskId) -> Writes:
    """Read what a task has written."""
    request = msgspec.json.encode({"multi_last": [any_guard(task_id)]})
    answers = await bus.gather(f"$JS.API.DIRECT.GET.{TASKS}", request)
    stored = sorted(map(from_direct_get, answers), key=lambda each: each.sequence)
    prefix = parse_subject(stored[0].subject)[0].prefix.rpartition(".")[0]
    return Writes("floor." + prefix.removeprefix("task."), [_write(each) for each in stored])


def _write(stored: Stored) -> Write:
    kept = {name: value for name, value in stored.headers.items() if not name.startswith(_OWN)}
    return Write(parse_subject(stored.subject)[1], kept, stored.body)


async def main(nats_url: str, file: Path, tasks: int, at_once: int) -> None:
    """Write so many tasks, so many of them at once; prints how many a second."""
    writes = msgspec.json.decode(file.read_bytes(), type=Writes)  # noqa: ASYNC240 - nothing else runs yet
    nc = await nats.connect(nats_url)
    process.settle_garbage()
    turns = iter(range(tasks))
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(_loop(nc.jetstream(), writes, turns))
    print(tasks / (time.perf_counter() - began), flush=True)
    await nc.close()


async def _loop(stream: JetStreamContext, writes: Writes, turns: Iterator[int]) -> None:
    for _ in turns:
        await _task(stream, writes, clock.new_task_id())


async def _task(stream: JetStreamContext, writes: Writes, task_id: str) -> None:
    """Store each write of one task once the one before it is."""
    address, last = f"{writes.prefix}.{task_id}", 0
    for write in writes.each:
        event_id = clock.new_event_id()
        headers = {
            **write.headers,
            envelope.EVENT_ID: event_id,
            "ce-subject": task_id,
            envelope.MSG_ID: event_id,
            **envelope.guarded(last, f"{address}.*"),
        }
        last = (await stream.publish(f"{address}.{write.token}", write.body, headers=headers)).seq


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
