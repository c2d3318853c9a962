"""What is counted: tasks by status, lanes, queues, batches, and how the queues stood at each moment.

The one rule: all of them are sums of moves from one status to another, so that they add up however the
events are cut into batches.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from schemas import queues
from schemas.batches import COUNTED
from schemas.events import Recorded
from schemas.ids import BatchId
from schemas.queues import IN_QUEUE, Queue
from schemas.subjects import Lane
from schemas.task import FINAL, WAITING, Status, Task
from services.projector.rows import Known, Row, tenant, time

EVERY_TENANT: Final = "*"
_QUEUED: Final = frozenset(IN_QUEUE)
MOMENT: Final = 1000
"""At every so many sequences the queues are noted as they were."""

Queues = Mapping[Queue, Iterable[int]]
"""By kind and model how many there are, as IN_QUEUE."""
_Move = tuple[Lane, Status, str, Status, str]
"""Of a lane: from a status, of which tenant, to another, of which; ABSENT before the first event."""


class _Batch:
    """What happened to a batch of tasks; ``number`` and ``submitted_at`` are the first of theirs."""

    __slots__ = ("ended", "moved", "number", "sequence", "size", "submitted_at", "tenant", "user")

    def __init__(self, known: Known) -> None:
        made = known.task.submission
        self.number = known.number
        self.submitted_at = known.task.submitted_at
        self.tenant = tenant(made)
        self.user = made.user if made else None
        self.size = made.batch.size if made and made.batch else 0
        self.sequence = 0
        self.ended = False
        self.moved: Counter[Status] = Counter()

    def join(self, known: Known) -> None:
        self.number = min(self.number, known.number)
        if self.submitted_at and known.task.submitted_at:
            self.submitted_at = min(self.submitted_at, known.task.submitted_at)


class Tallies:
    """``last``: the sequence that was folded before; ``queues`` as they stood then."""

    def __init__(self, last: int, queues: Queues) -> None:
        self._next = (last // MOMENT + 1) * MOMENT
        self._queues = {queue: tuple(numbers) for queue, numbers in queues.items()}
        self._moved: Counter[_Move] = Counter()
        self._changed: defaultdict[Lane, Counter[Status]] = defaultdict(Counter)
        """By how much since then: by lane, which is found at once, and not by tenant."""
        self._batches: dict[BatchId, _Batch] = {}
        self.moments: list[Row] = []

    def come_to(self, sequence: int) -> None:
        """Note the queues as they were when a moment is behind us."""
        if sequence >= self._next:
            moment = sequence // MOMENT * MOMENT
            self._next = moment + MOMENT
            self._note(moment)

    def _note(self, moment: int) -> None:
        """Note what there was before the event that is being folded, which comes at the moment or after."""
        rows = {queue: list(numbers) for queue, numbers in self._queues.items()}
        for lane, changes in self._changed.items():
            row = rows.setdefault((lane.kind, lane.model), [0] * len(IN_QUEUE))
            for place, status in enumerate(IN_QUEUE):
                row[place] += changes[status]
        self.moments.append((moment - 1, queues.note(rows)))

    def move(self, task: Task, known: Known, recorded: Recorded) -> None:
        """Count what an event has made of ``task``, which is ``known`` as it is now."""
        before, after, made = task.status, known.task.status, known.task.submission
        if before is not after:
            lane = known.address.lane
            whose = tenant(made)
            was = whose if made is task.submission else tenant(task.submission)
            self._moved[lane, before, was, after, whose] += 1
            changes = self._changed[lane]
            changes[before] -= 1
            changes[after] += 1
        if made is None or made.batch is None:
            return
        batch = self._batches.get(made.batch.batch_id)
        if batch is None:
            batch = self._batches[made.batch.batch_id] = _Batch(known)
        batch.join(known)
        batch.sequence = recorded.sequence
        if before is not after:
            batch.moved[before] -= 1
            batch.moved[after] += 1
            batch.ended = batch.ended or after in FINAL

    def counts(self) -> Iterator[Row]:
        """Give by how much the counts change: kind, tenant or every tenant, status."""
        changes: Counter[tuple[str, str, Status]] = Counter()
        for (lane, before, of, after, now_of), n in self._moved.items():
            if before is not Status.ABSENT:
                changes[lane.kind, of, before] -= n
                changes[lane.kind, EVERY_TENANT, before] -= n
            changes[lane.kind, now_of, after] += n
            changes[lane.kind, EVERY_TENANT, after] += n
        return ((*key, change) for key, change in changes.items() if change)

    def depths(self) -> Iterator[Row]:
        """Give by how much the lanes' numbers of waiting tasks change."""
        changes: Counter[str] = Counter()
        for (lane, before, _, after, _), n in self._moved.items():
            change = n * ((after in WAITING) - (before in WAITING))
            if change:
                changes[lane.name] += change
        return ((lane, change) for lane, change in changes.items() if change)

    def queues(self) -> Iterator[Row]:
        """Give by how much each queue's counts change: kind, model, then as IN_QUEUE."""
        changes = _in_queue(self._moved)
        changed = {(kind, model) for (kind, model, _), change in changes.items() if change}
        return ((*queue, *(changes[*queue, status] for status in IN_QUEUE)) for queue in changed)

    def batches(self) -> Iterator[Row]:
        """Give by how much the counts of batches change, and what they are."""
        for batch_id, batch in self._batches.items():
            yield (
                batch_id,
                batch.number,
                batch.sequence,
                batch.tenant,
                batch.user,
                batch.size,
                time(batch.submitted_at),
                *(batch.moved[status] for status in COUNTED),
            )

    def ended_batches(self) -> Iterator[Row]:
        """Give the batches of which tasks ended, perhaps the last ones."""
        return ((batch_id,) for batch_id, batch in self._batches.items() if batch.ended)


def _in_queue(moved: Mapping[_Move, int]) -> Counter[tuple[str, str, Status]]:
    changes: Counter[tuple[str, str, Status]] = Counter()
    for (lane, before, _, after, _), n in moved.items():
        if before in _QUEUED:
            changes[lane.kind, lane.model, before] -= n
        if after in _QUEUED:
            changes[lane.kind, lane.model, after] += n
    return changes
