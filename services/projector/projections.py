"""Events in, rows out. Pure: nothing here opens a database.

The one rule: applying an event twice, or one that is not legal, changes nothing.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from schemas import envelope, views, work
from schemas.commands import due
from schemas.events import TOKENS, Recorded, Undecodable
from schemas.ids import TaskId
from schemas.subjects import Address
from schemas.task import WAITING, Status, Task, evolve, legal

_encode: Final = msgspec.json.Encoder().encode
decode_state: Final = msgspec.json.Decoder(Task).decode

EVERY_TENANT: Final = "*"
IN_QUEUE: Final = (Status.SCHEDULED, Status.QUEUED, Status.RETRYING, Status.RUNNING)
"""What a queue counts, in the order of its columns."""

Row = tuple[object, ...]


class Known(Struct):
    """A task as its row has it; ``number`` is the sequence of its first event."""

    number: int
    task: Task
    address: Address


class Fold:
    """Folds one batch; the rows that it starts from are given by ``remember``, None for a new task."""

    def __init__(self) -> None:
        self._known: dict[TaskId, Known | None] = {}
        self._changed: set[TaskId] = set()
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._depths: Counter[str] = Counter()
        self._queues: Counter[tuple[str, str, Status]] = Counter()
        self.events: list[Row] = []
        self.tags: list[Row] = []
        self.ignored = 0

    def missing(self, task_id: TaskId) -> bool:
        """Whether the row has yet to be given by ``remember``."""
        return task_id not in self._known

    def remember(self, task_id: TaskId, known: Known | None) -> None:
        self._known[task_id] = known

    def apply(self, recorded: Recorded, address: Address) -> None:
        """Take one event in."""
        known = self._known.get(recorded.task_id)
        before = known.task if known else Task(task_id=recorded.task_id)
        if recorded.sequence <= before.sequence:
            return
        if not legal(before, recorded) or isinstance(recorded.event, Undecodable):
            self.ignored += 1
            return
        after = evolve(before, recorded)
        number = known.number if known else recorded.sequence
        home = known.address if known else address
        self._known[recorded.task_id] = Known(number, after, home)
        self._changed.add(recorded.task_id)
        if known is None and after.submission:
            self.tags += ((tag, number) for tag in after.submission.tags)
        self._count(before, -1, home)
        self._count(after, 1, home)
        token = TOKENS[type(recorded.event)]
        self.events.append(
            (recorded.sequence, recorded.task_id, f"task.{token}", views.wire_event(recorded))
        )

    def _count(self, task: Task, change: int, address: Address) -> None:
        if task.status is Status.ABSENT:
            return
        tenant = task.submission.tenant if task.submission else "default"
        for whose in (tenant, EVERY_TENANT):
            self._counts[address.lane.kind, whose, task.status] += change
        if task.status in WAITING:
            self._depths[address.lane.name] += change
        if task.status in IN_QUEUE:
            self._queues[address.lane.kind, address.lane.model, task.status] += change

    def tasks(self) -> Iterator[Row]:
        """Give the rows of the tasks that have changed."""
        for task_id in self._changed:
            known = self._known[task_id]
            if known is not None:
                yield _row(known)

    def not_running(self) -> Iterator[Row]:
        """Give the tasks whose progress is over."""
        for task_id in self._changed:
            known = self._known[task_id]
            if known is not None and known.task.status is not Status.RUNNING:
                yield (task_id,)

    def counts(self) -> Iterator[Row]:
        return ((*key, change) for key, change in self._counts.items() if change)

    def depths(self) -> Iterator[Row]:
        return ((lane, change) for lane, change in self._depths.items() if change)

    def queues(self) -> Iterator[Row]:
        """Give by how much each queue's counts change: kind, model, then as IN_QUEUE."""
        changed = {(kind, model) for (kind, model, _), change in self._queues.items() if change}
        return ((*queue, *(self._queues[*queue, status] for status in IN_QUEUE)) for queue in changed)


def _row(known: Known) -> Row:
    task, lane = known.task, known.address.lane
    made = task.submission
    deadline = due(task)
    return (
        known.number,
        task.task_id,
        lane.kind,
        task.status,
        made.tenant if made else "default",
        known.address.prefix,
        made.fingerprint if made else "",
        envelope.timestamp(deadline[1]) if deadline else None,
        task.sequence,
        lane.model,
        envelope.timestamp(task.submitted_at) if task.submitted_at else None,
        lane.priority,
        made.user if made else None,
        work.units(made) if made else 0.0,
        made.origin if made else None,
        task.attempts[-1].backend if task.attempts else None,
        task.error.code if task.error else None,
        envelope.timestamp(task.finished_at) if task.finished_at else None,
        views.encoded(task, known.address),
        _encode(task),
    )
