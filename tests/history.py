"""The whole log, read by the test itself and past every process that could err about it."""

from collections import defaultdict

import msgspec

from schemas.events import Recorded, TaskCancelled, TaskDone, TaskExpired, TaskFailed, TaskSubmitted
from schemas.ids import TaskId
from services.bus.connection import Bus
from services.bus.stored import from_direct_get, recorded

FINAL = (TaskDone, TaskFailed, TaskCancelled, TaskExpired)
BATCH = 1000


async def histories(bus: Bus) -> dict[TaskId, list[Recorded]]:
    """Give every event of every task, in the order of the log."""
    found: dict[TaskId, list[Recorded]] = defaultdict(list)
    sequence = 1
    while True:
        request = msgspec.json.encode({"batch": BATCH, "seq": sequence, "next_by_subj": "task.>"})
        messages = await bus.gather("$JS.API.DIRECT.GET.TASKS", request, timeout_s=10)
        if not messages:
            return found
        for message in messages:
            _, event = recorded(from_direct_get(message))
            found[event.task_id].append(event)
            sequence = event.sequence + 1


def end(history: list[Recorded]) -> Recorded:
    """Give the one final event of a task; nothing follows it but what a schedule stored late."""
    names = [type(event.event).__name__ for event in history]
    ends = [place for place, event in enumerate(history) if isinstance(event.event, FINAL)]
    assert len(ends) == 1, names
    assert all(isinstance(late.event, TaskSubmitted) for late in history[ends[0] + 1 :]), names
    return history[ends[0]]
