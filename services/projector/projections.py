"""Events in, rows out. Pure: nothing here opens a database.

The one rule: applying an event twice, or one that is not legal, changes nothing; and how the events are cut
into batches makes no difference to the rows.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from schemas import envelope, views, work
from schemas.commands import due
from schemas.events import TOKENS, Recorded, TaskErased, Undecodable
from schemas.ids import BatchId, TaskId
from schemas.requests import AnySubmission
from schemas.subjects import Address, Lane
from schemas.task import FINAL, WAITING, Status, Task, evolve, legal

_encode: Final = msgspec.json.Encoder().encode
decode_state: Final = msgspec.json.Decoder(Task).decode

EVERY_TENANT: Final = "*"
IN_QUEUE: Final = (Status.SCHEDULED, Status.QUEUED, Status.RETRYING, Status.RUNNING)
"""What a queue counts, in the order of its columns."""
IN_BATCH: Final = (
    Status.SCHEDULED,
    Status.QUEUED,
    Status.RUNNING,
    Status.RETRYING,
    Status.DONE,
    Status.FAILED,
    Status.CANCELLED,
    Status.EXPIRED,
)
"""What a batch counts, in the order of its columns."""
MOMENT: Final = 1000
"""At every so many sequences the queues are noted as they were."""

Row = tuple[object, ...]
Queues = Mapping[tuple[str, str], Iterable[int]]
"""By kind and model how many there are, as IN_QUEUE."""


class Known(Struct):
    """A task as its row has it; ``number`` is the sequence of its first event."""

    number: int
    task: Task
    address: Address


class _Move(NamedTuple):
    """From one status of a tenant's to another; ABSENT before the first event."""

    lane: Lane
    of: str
    before: Status
    tenant: str
    after: Status


class _Batch:
    """What happened to a batch of tasks; ``one`` of them says what is the same for all."""

    __slots__ = ("ended", "moved", "one", "sequence")

    def __init__(self, one: Known) -> None:
        self.one = one
        self.sequence = 0
        self.ended = False
        self.moved: Counter[Status] = Counter()


class Fold:
    """Folds events; the rows that it starts from are given by ``remember``, None for a new task.

    ``last``: the sequence that was folded before. ``queues`` as they stood then.
    """

    def __init__(self, last: int, queues: Queues) -> None:
        self._last = last
        self._queues: Counter[tuple[str, str, Status]] = Counter()
        for (kind, model), numbers in queues.items():
            for status, n in zip(IN_QUEUE, numbers, strict=True):
                self._queues[kind, model, status] = n
        self._noted: Counter[_Move] = Counter()
        self._moved: Counter[_Move] = Counter()
        self._batches: dict[BatchId, _Batch] = {}
        self._known: dict[TaskId, Known | None] = {}
        self._changed: set[TaskId] = set()
        self.events: list[Row] = []
        self.erased: list[Row] = []
        """Number and sequence: the events of that task before that one are not to be shown any more."""
        self.tags: list[Row] = []
        self.moments: list[Row] = []
        self.ignored = 0

    def missing(self, task_id: TaskId) -> bool:
        """Whether the row has yet to be given by ``remember``."""
        return task_id not in self._known

    def remember(self, task_id: TaskId, known: Known | None) -> None:
        self._known[task_id] = known

    def apply(self, recorded: Recorded, address: Address | None) -> None:
        """Take one event in; ``address`` None where it is nobody's."""
        self._pass(recorded.sequence)
        known = self._known.get(recorded.task_id)
        before = known.task if known else Task(task_id=recorded.task_id)
        event = recorded.event
        if recorded.sequence <= before.sequence:
            return
        if address is None or isinstance(event, Undecodable) or not legal(before, recorded):
            self.ignored += 1
            return
        after = evolve(before, recorded)
        if known is None:
            known = self._begin(recorded, after, address)
        else:
            known.task = after
        self._changed.add(recorded.task_id)
        self._move(before, known, recorded)
        if isinstance(event, TaskErased):
            self.erased.append((known.number, recorded.sequence))
        self.events.append(_event_row(recorded, f"task.{TOKENS[type(event)]}", known))

    def _begin(self, recorded: Recorded, after: Task, address: Address) -> Known:
        number = recorded.sequence
        if isinstance(recorded.event, TaskErased) and recorded.event.facts:
            number = recorded.event.facts.number
        known = self._known[recorded.task_id] = Known(number, after, address)
        if after.submission:
            self.tags += ((tag, number) for tag in after.submission.tags)
        return known

    def _pass(self, sequence: int) -> None:
        """Note the queues as they were when a moment is behind us."""
        if sequence <= self._last:
            return
        if sequence // MOMENT != self._last // MOMENT:
            self._note(sequence // MOMENT * MOMENT)
        self._last = sequence

    def _note(self, moment: int) -> None:
        """Note what there was before the event that is being folded, which comes at the moment or after."""
        moved = Counter(self._moved)
        moved.subtract(self._noted)
        self._queues.update(_in_queue(moved))
        self._noted = Counter(self._moved)
        rows: dict[tuple[str, str], list[int]] = {}
        for (kind, model, status), n in self._queues.items():
            rows.setdefault((kind, model), [0] * len(IN_QUEUE))[IN_QUEUE.index(status)] = n
        shown = [[*queue, *numbers] for queue, numbers in sorted(rows.items()) if any(numbers)]
        self.moments.append((moment - 1, _encode(shown)))

    def _move(self, task: Task, known: Known, recorded: Recorded) -> None:
        before, after, made = task.status, known.task.status, known.task.submission
        if before is not after:
            move = _Move(known.address.lane, _tenant(task.submission), before, _tenant(made), after)
            self._moved[move] += 1
        if made is None or made.batch is None:
            return
        batch = self._batches.get(made.batch.batch_id)
        if batch is None:
            batch = self._batches[made.batch.batch_id] = _Batch(known)
        batch.sequence = recorded.sequence
        if before is not after:
            batch.moved[before] -= 1
            batch.moved[after] += 1
            batch.ended = batch.ended or after in FINAL

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
        """Give by how much the counts change: kind, tenant or every tenant, status."""
        changes: Counter[tuple[str, str, Status]] = Counter()
        for move, n in self._moved.items():
            kind = move.lane.kind
            if move.before is not Status.ABSENT:
                changes[kind, move.of, move.before] -= n
                changes[kind, EVERY_TENANT, move.before] -= n
            changes[kind, move.tenant, move.after] += n
            changes[kind, EVERY_TENANT, move.after] += n
        return ((*key, change) for key, change in changes.items() if change)

    def depths(self) -> Iterator[Row]:
        """Give by how much the lanes' numbers of waiting tasks change."""
        changes: Counter[str] = Counter()
        for move, n in self._moved.items():
            change = n * ((move.after in WAITING) - (move.before in WAITING))
            if change:
                changes[move.lane.name] += change
        return ((lane, change) for lane, change in changes.items() if change)

    def queues(self) -> Iterator[Row]:
        """Give by how much each queue's counts change: kind, model, then as IN_QUEUE."""
        changes = _in_queue(self._moved)
        changed = {(kind, model) for (kind, model, _), change in changes.items() if change}
        return ((*queue, *(changes[*queue, status] for status in IN_QUEUE)) for queue in changed)

    def batches(self) -> Iterator[Row]:
        """Give by how much the counts of batches change, and what they are."""
        for batch_id, batch in self._batches.items():
            known, made = batch.one, batch.one.task.submission
            if made is None or made.batch is None:
                continue
            yield (
                batch_id,
                known.number,
                batch.sequence,
                made.tenant,
                made.user,
                made.batch.size,
                _time(known.task.submitted_at),
                *(batch.moved[status] for status in IN_BATCH),
            )

    def ended_batches(self) -> Iterator[Row]:
        """Give the batches of which tasks ended, perhaps the last ones."""
        return ((batch_id,) for batch_id, batch in self._batches.items() if batch.ended)


def _in_queue(moved: Mapping[_Move, int]) -> Counter[tuple[str, str, Status]]:
    changes: Counter[tuple[str, str, Status]] = Counter()
    for move, n in moved.items():
        if move.before in IN_QUEUE:
            changes[move.lane.kind, move.lane.model, move.before] -= n
        if move.after in IN_QUEUE:
            changes[move.lane.kind, move.lane.model, move.after] += n
    return changes


def _event_row(recorded: Recorded, kind: str, known: Known) -> Row:
    task = known.task
    return (
        recorded.sequence,
        known.number,
        kind,
        task.status,
        _backend(task),
        task.error.code if task.error else None,
        views.wire_event(recorded),
    )


def _row(known: Known) -> Row:
    task, lane = known.task, known.address.lane
    made = task.submission
    deadline = due(task)
    return (
        known.number,
        task.task_id,
        lane.kind,
        task.status,
        _tenant(made),
        known.address.prefix,
        made.fingerprint if made else "",
        _time(deadline[1]) if deadline else None,
        task.sequence,
        lane.model,
        _time(task.submitted_at),
        lane.priority,
        made.user if made else None,
        work.units(made) if made else 0.0,
        made.origin if made else None,
        made.batch.batch_id if made and made.batch else None,
        _backend(task),
        task.error.code if task.error else None,
        _time(task.finished_at),
        views.encoded(task, known.address),
        None if task.final else _encode(task),
    )


def _tenant(made: AnySubmission | None) -> str:
    return made.tenant if made else "default"


def _backend(task: Task) -> str | None:
    return task.attempts[-1].backend if task.attempts else None


def _time(at: datetime | None) -> str | None:
    return envelope.timestamp(at) if at else None
