"""Events in, rows out. Pure: nothing here opens a database.

The one rule: applying an event twice, or one that is not legal, changes nothing; and how the events are cut
into batches makes no difference to the rows.
"""

from collections.abc import Iterator
from operator import attrgetter

from schemas.events import Recorded, TaskErased
from schemas.ids import TaskId
from schemas.subjects import Address
from schemas.task import Status, Task, evolve
from services.projector import rows
from services.projector.rows import Known, Row
from services.projector.tallies import Queues, Tallies


class Fold:
    """Folds events; the rows that it starts from are given by ``remember``, None for a new task.

    ``last``: the sequence that was folded before. ``queues`` as they stood then.
    """

    def __init__(self, last: int, queues: Queues) -> None:
        self.tallies = Tallies(last, queues)
        self._known: dict[TaskId, Known | None] = {}
        self._changed: set[TaskId] = set()
        self._over: set[TaskId] = set()
        self.events: list[Row] = []
        self.erased: list[Row] = []
        """Number and sequence: the events of that task before that one are not to be shown any more."""
        self.tags: list[Row] = []
        self.late: list[tuple[Address, Recorded]] = []
        """What may still change a task that was let go of: to be folded once its row can be found."""
        self.ignored = 0

    def missing(self, task_id: TaskId) -> bool:
        """Whether the row has yet to be given by ``remember``."""
        return task_id not in self._known

    def remember(self, task_id: TaskId, known: Known | None) -> None:
        self._known[task_id] = known

    def apply(self, recorded: Recorded, address: Address | None) -> None:
        """Take one event in; ``address`` None where it is nobody's."""
        event, sequence, task_id = recorded.event, recorded.sequence, recorded.task_id
        self.tallies.come_to(sequence)
        known = self._known.get(task_id)
        before = known.task if known else Task(task_id=task_id)
        if sequence <= before.sequence:
            return
        if known is None and task_id in self._over:
            self._too_late(recorded, address)
            return
        after = evolve(before, recorded)
        if address is None or after is before:
            self.ignored += 1
            return
        if known is None:
            known = self._begin(recorded, after, address)
        else:
            known.task = after
        self._changed.add(task_id)
        self.tallies.move(before, known, recorded)
        if isinstance(event, TaskErased) and event.facts:
            self.erased.append((known.number, sequence))
        self.events.append(rows.of_event(recorded, known))

    def _begin(self, recorded: Recorded, after: Task, address: Address) -> Known:
        number = recorded.sequence
        if isinstance(recorded.event, TaskErased) and recorded.event.facts:
            number = recorded.event.facts.number
        known = self._known[recorded.task_id] = Known(number, after, address)
        if after.submission:
            self.tags += ((tag, number) for tag in after.submission.tags)
        return known

    def _too_late(self, recorded: Recorded, address: Address | None) -> None:
        """Pass over what comes after an end, but for the one thing that may."""
        if address is not None and isinstance(recorded.event, TaskErased):
            self.late.append((address, recorded))
        else:
            self.ignored += 1

    def tasks(self) -> Iterator[Row]:
        """Give the rows of the tasks that have changed."""
        return (rows.of_task(known) for known in self._changed_ones())

    def not_running(self) -> Iterator[Row]:
        """Give the tasks whose progress is over."""
        for known in self._changed_ones():
            if known.task.status is not Status.RUNNING:
                yield (known.task.task_id,)

    def let_go(self) -> list[Row]:
        """Give the rows of the tasks that have ended, of which nothing but the id is kept after that.

        In the order of their numbers, in which they are written the fastest.
        """
        ended = [known for known in self._changed_ones() if known.task.final]
        ended.sort(key=attrgetter("number"))
        for known in ended:
            task_id = known.task.task_id
            del self._known[task_id]
            self._changed.discard(task_id)
            self._over.add(task_id)
        return [rows.of_task(known) for known in ended]

    def _changed_ones(self) -> Iterator[Known]:
        for task_id in self._changed:
            known = self._known[task_id]
            if known is not None:
                yield known
