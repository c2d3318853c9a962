"""Somebody who submits all the time, straight into the log: ``python -m benchmarks.writer NATS_URL RATE``.

The one rule: it loads the projector and its file, and neither of the two that are compared.
"""

import asyncio
import sys
from typing import Final

import uvloop

from schemas import intake
from schemas.events import TaskSubmitted
from schemas.intake import Limits
from schemas.requests import Kind
from schemas.subjects import Address, Lane
from services import clock
from services.bus.connection import Bus
from services.bus.tasklog import TaskLog

LIMITS: Final = Limits(
    start_deadline_s=86_400, deadline_s=172_800, run_timeout_s=600, max_attempts=3, horizon_s=1_000_000
)
_BODY: Final = intake.flat(Kind.IMAGE, {"prompt": "written by somebody else", "model": "elsewhere"})
_LANE: Final = Lane("image", "elsewhere", "normal", 0)


async def main(nats_url: str, rate: float) -> None:
    """Run until the end of the process; prints a word once it has begun."""
    bus = Bus(nats_url, "writer")
    await bus.connect()
    tasklog = TaskLog(bus, "/writer", clock.now, clock.new_event_id)
    loop = asyncio.get_running_loop()
    due = loop.time()
    print("writes", flush=True)
    while True:
        made = intake.submission(
            _BODY, now=clock.now(), seed=1, limits=LIMITS, tenant="default", fingerprint="x"
        )
        address = Address(_LANE, clock.new_task_id())
        await tasklog.append(address, TaskSubmitted(submission=made), expected=0, patience_s=None)
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2])))
