"""Events in, rows out: however they are batched, and whatever is delivered twice."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas import views
from schemas.batches import COUNTED
from schemas.events import TOKENS, Recorded, TaskErased, TaskEvent, Undecodable
from schemas.ids import TaskId
from schemas.queues import IN_QUEUE
from schemas.subjects import Address, parse_subject
from schemas.task import FINAL, WAITING, Status, Task, evolve, fold, legal
from services.projector.projections import Fold
from services.projector.rows import Known, Row, decode_state
from services.projector.tallies import EVERY_TENANT, Tallies
from tests import strategies
from tests.builders import (
    ADDRESS,
    LANE,
    OTHER,
    TASK,
    attempt_failed,
    cancelled,
    done,
    history,
    record,
    scheduled,
    started,
    submitted,
)

TASKS = (TASK, OTHER)
STATE, DOCUMENT, FINISHED_AT, IN = -1, -2, 18, 15
# A log is folded many times over, by which no clock should judge an example.
LOGS = settings(max_examples=40, deadline=None)


class Batch(NamedTuple):
    """A batch by the rules of ADD_BATCH: the least, the greatest, and sums."""

    number: int
    sequence: int
    fixed: tuple[object, ...]
    submitted_at: str
    counts: tuple[int, ...]
    finished_at: str | None = None

    @classmethod
    def after(cls, before: "Batch | None", row: Sequence[object]) -> "Batch":
        number, sequence, tenant, user, size, submitted_at, *counts = row
        changes = tuple(map(_number, counts))
        new = cls(_number(number), _number(sequence), (tenant, user, size), str(submitted_at), changes)
        if before is None:
            return new
        return before._replace(
            number=min(before.number, new.number),
            sequence=max(before.sequence, new.sequence),
            submitted_at=min(before.submitted_at, new.submitted_at),
            counts=tuple(old + change for old, change in zip(before.counts, new.counts, strict=True)),
        )

    @property
    def whole(self) -> bool:
        """Whether all of its tasks have ended."""
        ended = sum(n for status, n in zip(COUNTED, self.counts, strict=True) if status in FINAL)
        return ended == self.fixed[-1]


class Table:
    """What the store keeps, by the rules of its SQL: upserts by sequence, events once, sums."""

    def __init__(self) -> None:
        self.tasks: dict[object, Row] = {}
        self.events: dict[object, Row] = {}
        self.counts: Counter[tuple[object, ...]] = Counter()
        self.depths: Counter[object] = Counter()
        self.queues: Counter[tuple[str, str, Status]] = Counter()
        self.tags: set[Row] = set()
        self.batches: dict[object, Batch] = {}
        self.moments: dict[object, object] = {}
        self.last = 0

    def apply(self, batch: Iterable[Recorded]) -> Fold:
        queues = {queue: [self.queues[*queue, status] for status in IN_QUEUE] for queue in self._queues()}
        fold = Fold(self.last, queues)
        for recorded in batch:
            if fold.missing(recorded.task_id):
                fold.remember(recorded.task_id, self.known(recorded.task_id))
            fold.apply(recorded, Address(LANE, recorded.task_id))
            self.last = max(self.last, recorded.sequence)
        for row in fold.tasks():
            self.tasks[row[1]] = row
        self.tags.update(fold.tags)
        for row in fold.events:
            self.events.setdefault(row[0], row)
        for number, sequence in fold.erased:
            self._drop(number, _number(sequence))
        self._count(fold.tallies)
        return fold

    def _drop(self, number: object, before: int) -> None:
        for sequence, row in [*self.events.items()]:
            if row[1] == number and _number(sequence) < before:
                del self.events[sequence]

    def _count(self, tallies: Tallies) -> None:
        for *key, change in tallies.counts():
            self.counts[tuple(key)] += _number(change)
        for lane, change in tallies.depths():
            self.depths[lane] += _number(change)
        for kind, model, *changes in tallies.queues():
            for status, change in zip(IN_QUEUE, changes, strict=True):
                self.queues[str(kind), str(model), status] += _number(change)
        for batch_id, *row in tallies.batches():
            self.batches[batch_id] = Batch.after(self.batches.get(batch_id), row)
        for (batch_id,) in tallies.ended_batches():
            self._end(batch_id)
        for moment, shown in tallies.moments:
            self.moments.setdefault(moment, shown)

    def _end(self, batch_id: object) -> None:
        batch = self.batches[batch_id]
        if batch.finished_at is None and batch.whole:
            ends = [row[FINISHED_AT] for row in self.tasks.values() if row[IN] == batch_id]
            self.batches[batch_id] = batch._replace(finished_at=max(map(str, ends)))

    def _queues(self) -> set[tuple[str, str]]:
        return {(kind, model) for kind, model, _ in self.queues}

    def known(self, task_id: TaskId) -> Known | None:
        row = self.tasks.get(task_id)
        if row is None:
            return None
        state, number, prefix = row[STATE], row[0], row[5]
        address, _ = parse_subject(f"{prefix}.state")
        if isinstance(state, bytes):
            return Known(_number(number), decode_state(state), address)
        wires = [row[-1] for row in sorted(self.events.values(), key=lambda row: _number(row[0]))]
        told = [views.recorded(wire) for wire in wires if isinstance(wire, bytes)]
        history = [one for one in told if one.task_id == task_id]
        return Known(_number(number), fold(task_id, history), address)

    def content(self) -> tuple[object, ...]:
        return (*self.shown(), self.moments)

    def shown(self) -> tuple[object, ...]:
        """Give all but the moments, which say how the queues were and not how they are."""
        sums = (+self.counts, +self.depths, +self.queues)
        return self.tasks, self.events, self.tags, *sums, self.batches


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


@st.composite
def logs(draw: st.DrawFn) -> list[Recorded]:
    """Give the log of two tasks, one event after another, with a stranger's events in between."""
    waiting = [draw(strategies.histories(task_id)) for task_id in TASKS]
    log: list[Recorded] = []
    numbers: dict[TaskId, int] = {}
    while any(waiting):
        source = draw(st.sampled_from([one for one in waiting if one]))
        number = numbers.setdefault(source[0].task_id, len(log) + 1)
        log.append(_placed(source.pop(0), len(log) + 1, number))
        if draw(st.integers(0, 9)) == 0:
            unreadable = Undecodable("written by a stranger")
            log.append(record(unreadable, len(log) + 1, task_id=draw(st.sampled_from(TASKS))))
    return log


def _placed(recorded: Recorded, sequence: int, number: int) -> Recorded:
    """Move an event to where it comes in a log; ``number`` is where its task begins there."""
    event = recorded.event
    if isinstance(event, TaskErased) and event.facts:
        event = replace(event, facts=replace(event.facts, number=number))
    return replace(recorded, event=event, sequence=sequence)


def applied(*batches: Iterable[Recorded]) -> Table:
    table = Table()
    for batch in batches:
        table.apply(batch)
    return table


@LOGS
@given(logs(), st.data())
def test_any_split_and_any_batch_twice_gives_the_same_rows(
    log: list[Recorded], data: st.DataObject
) -> None:
    whole = applied(log)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=5)))
    edges = [0, *cuts, len(log)]
    table = Table()
    for begin, end in itertools.pairwise(edges):
        for _ in range(data.draw(st.integers(1, 2))):
            # What is delivered again may begin earlier than what was delivered first.
            table.apply(log[data.draw(st.integers(0, begin)) : end])

    assert table.content() == whole.content()


@LOGS
@given(logs(), st.data())
def test_what_is_delivered_again_after_all_the_rest_changes_nothing(
    log: list[Recorded], data: st.DataObject
) -> None:
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(log))] * 2)))

    assert applied(log, log[begin:end]).content() == applied(log).content()


def test_an_old_event_does_not_turn_a_task_back() -> None:
    whole = history(submitted(), started(), attempt_failed())

    assert applied(whole, whole[1:2]).content() == applied(whole).content()


@LOGS
@given(logs())
def test_counts_say_how_many_tasks_there_are_of_each_status(log: list[Recorded]) -> None:
    for length in range(len(log) + 1):
        table = applied(log[:length])
        tasks = [fold(task_id, (r for r in log[:length] if r.task_id == task_id)) for task_id in TASKS]
        there = [task for task in tasks if task.status is not Status.ABSENT]

        expected: Counter[tuple[object, ...]] = Counter()
        for task in there:
            assert task.submission is not None
            for tenant in (task.submission.tenant, EVERY_TENANT):
                expected["image", tenant, task.status] += 1
        assert +table.counts == expected
        assert min(table.counts.values(), default=0) >= 0
        assert table.depths[LANE.name] == sum(task.status in WAITING for task in there)


@LOGS
@given(logs())
def test_a_queue_counts_its_tasks_that_have_not_ended(log: list[Recorded]) -> None:
    for length in range(len(log) + 1):
        table = applied(log[:length])
        tasks = [fold(task_id, (r for r in log[:length] if r.task_id == task_id)) for task_id in TASKS]
        there = Counter(task.status for task in tasks if task.status in IN_QUEUE)

        assert +table.queues == {(LANE.kind, LANE.model, status): n for status, n in there.items()}
        assert min(table.queues.values(), default=0) >= 0


def test_a_queue_changes_once_in_a_batch_however_many_of_its_tasks_do() -> None:
    fold = Table().apply(
        [record(submitted(), 1), record(submitted(), 2, task_id=OTHER), record(started(), 3, task_id=OTHER)]
    )

    assert list(fold.tallies.queues()) == [(LANE.kind, LANE.model, 0, 1, 0, 1)]


def test_a_row_knows_its_queue_and_its_place_in_it() -> None:
    row = applied(history(scheduled(), submitted())).tasks[TASK]

    assert row[9:11] == (LANE.model, "2026-11-24T09:00:01.000Z")


@LOGS
@given(logs())
def test_a_row_shows_the_document_that_a_lookup_shows(log: list[Recorded]) -> None:
    table = applied(log)
    for task_id in TASKS:
        seen = [r for r in log if r.task_id == task_id and not isinstance(r.event, Undecodable)]
        task = fold(task_id, strategies.last_of_each(seen))

        assert table.tasks[task_id][DOCUMENT] == views.encoded(task, Address(LANE, task_id))
        known = table.known(task_id)
        assert known is not None
        assert known.task == task


@LOGS
@given(logs())
def test_the_history_shows_every_legal_event_once_and_no_other(log: list[Recorded]) -> None:
    """Of an erased task only what came once it was."""
    table = Table()
    ignored = table.apply(log).ignored
    happened = [one for task_id in TASKS for one in _legal(task_id, log)]

    assert ignored == len(log) - len(happened)
    assert table.events.keys() == {one.sequence for one in strategies.remembered(happened)}
    for recorded in strategies.remembered(happened):
        assert not isinstance(recorded.event, Undecodable)
        token = TOKENS[type(recorded.event)]
        wire = views.wire_event(recorded)
        sequence, number, kind, *_, shown = table.events[recorded.sequence]
        assert (sequence, kind, shown) == (recorded.sequence, f"task.{token}", wire)
        assert number == table.tasks[recorded.task_id][0]


def _legal(task_id: TaskId, log: Iterable[Recorded]) -> Iterator[Recorded]:
    task = Task(task_id=task_id)
    for recorded in log:
        if recorded.task_id == task_id and legal(task, recorded):
            task = evolve(task, recorded)
            yield recorded


@LOGS
@given(logs(), st.data())
def test_what_is_left_of_a_log_after_erasures_gives_the_rows_that_the_whole_log_gave(
    log: list[Recorded], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(log)))

    assert applied(strategies.remembered(log)).shown() == applied(log[:cut], log[cut:]).shown()


@LOGS
@given(st.lists(strategies.recorded(), max_size=15))
def test_whatever_a_log_holds_no_count_goes_below_nought(log: list[Recorded]) -> None:
    log = [replace(one, sequence=number) for number, one in enumerate(log, 1)]
    table = applied(log)

    assert min(table.counts.values(), default=0) >= 0
    assert min(table.depths.values(), default=0) >= 0


def test_a_row_has_what_queries_look_for() -> None:
    table = applied(
        history(scheduled(tenant="acme", fingerprint="f"), submitted(tenant="acme", fingerprint="f"))
    )
    row = table.tasks[TASK]

    assert row[:9] == (
        1,
        TASK,
        "image",
        Status.QUEUED,
        "acme",
        ADDRESS.prefix,
        "f",
        "2026-11-25T09:00:00.000Z",
        2,
    )


@pytest.mark.parametrize("last", [cancelled(), done()])
def test_a_task_that_is_over_is_never_due(last: TaskEvent) -> None:
    row = applied(history(submitted(), started(), last)).tasks[TASK]

    assert row[3] in FINAL
    assert row[7] is None


def test_the_start_deadline_counts_until_a_task_has_begun() -> None:
    assert applied(history(submitted())).tasks[TASK][7] == "2026-11-25T09:00:00.000Z"
    assert applied(history(submitted(), started())).tasks[TASK][7] == "2026-11-26T09:00:00.000Z"


def test_progress_is_over_for_every_task_that_does_not_run() -> None:
    running = Table().apply(history(submitted(), started()))
    ended = Table().apply(history(submitted(), started(), done()))

    assert list(running.not_running()) == []
    assert list(ended.not_running()) == [(TASK,)]


def test_what_is_ignored_is_counted_and_not_shown() -> None:
    fold = Table().apply(history(started(), submitted(), Undecodable("?"), done(), cancelled(), started()))

    assert fold.ignored == 4
    assert [row[2] for row in fold.events] == ["task.submitted", "task.cancelled"]


def test_a_batch_that_changes_nothing_has_no_rows() -> None:
    table = applied(history(submitted()))
    fold = table.apply(history(submitted()))

    assert (
        list(fold.tasks())
        == list(fold.tallies.counts())
        == list(fold.tallies.depths())
        == fold.events
        == []
    )
    assert list(fold.tallies.queues()) == []


def test_a_state_reads_back_from_its_row() -> None:
    whole = history(submitted(), started(), done(text="x"))
    known = applied(whole).known(TASK)

    assert known is not None
    assert known.task == fold(TASK, whole)
    assert isinstance(known.task, Task)


def test_a_task_is_counted_off_where_it_was_counted_on() -> None:
    first, second = history(scheduled(tenant="acme"), submitted(tenant="other"))
    table = applied([first], [second])

    assert +table.counts == {("image", "other", "QUEUED"): 1, ("image", EVERY_TENANT, "QUEUED"): 1}
    assert min(table.counts.values()) == 0


def test_an_event_delivered_again_is_neither_shown_nor_counted_again() -> None:
    table = applied(history(submitted(), started()))
    again = table.apply(history(submitted(), started()))

    assert (again.events, again.ignored) == ([], 0)
