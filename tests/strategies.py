"""Hypothesis strategies for our own types, and for every history that the system can write.

The one rule: values come from the types' own annotations, so that a new member is tested without a word
here.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import msgspec.inspect as shape
from hypothesis import strategies as st
from msgspec import Struct

from schemas import erasure
from schemas.commands import CancelTask, ExpireTask, Refusal, decide
from schemas.events import (
    TOKENS,
    ErrorClass,
    Recorded,
    TaskAttached,
    TaskDone,
    TaskErased,
    TaskError,
    TaskEvent,
    TaskFailed,
    TaskScheduled,
    TaskStarted,
    TaskSubmitted,
    Undecodable,
    Usage,
)
from schemas.ids import BatchId, EventId, TaskId
from schemas.requests import AnySubmission, InBatch
from schemas.task import Task, evolve, fold
from services.dispatcher.decider import (
    Ack,
    End,
    FailureStep,
    Presume,
    Start,
    Wait,
    after_failure,
    handed_back,
    with_ticket,
)
from services.dispatcher.policies.retry import RetryPolicy
from tests.builders import GPU, T0, TASK, artifact, image

T = TypeVar("T")

POLICY = RetryPolicy()
TENANTS = {
    "default": BatchId("0199d4e8-7c1a-7000-8000-00000000ba7c"),
    "acme": BatchId("0199d4e8-7c1a-7000-8000-00000000ba7d"),
}
"""Each with a batch of its own."""
_USAGE = Usage(run_s=1.0)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip - one alternative after another
_MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the bounds are naive, the values are not


def of(kind: type[T]) -> st.SearchStrategy[T]:
    """Give every value that a type's annotations allow."""
    strategy: st.SearchStrategy[T] = _of(shape.type_info(kind))
    return strategy


def _of(info: shape.Type) -> st.SearchStrategy[Any]:  # Any: a value of whatever type was asked for
    match info:
        case shape.Metadata():
            return _of(info.type)
        case shape.StructType():
            members = {field.name: _of(field.type) for field in info.fields}
            return st.builds(info.cls, **members)
        case shape.UnionType():
            return st.one_of([_of(part) for part in info.types])
        case shape.VarTupleType():
            return st.lists(_of(info.item_type), max_size=3).map(tuple)
        case shape.EnumType():
            return st.sampled_from(list(info.cls))
        case shape.LiteralType():
            return st.sampled_from(list(info.values))
        case _:
            return _plain(info)


def _plain(info: shape.Type) -> st.SearchStrategy[Any]:  # Any: as above
    match info:
        case shape.StrType():
            if info.pattern:
                return st.from_regex(info.pattern, fullmatch=True).filter(lambda s: not s.endswith("\n"))
            return st.text(min_size=info.min_length or 0, max_size=min(info.max_length or 20, 20))
        case shape.IntType() | shape.FloatType():
            return _number(info)
        case shape.DateTimeType():
            return _MOMENTS
        case shape.DictType():
            return st.dictionaries(_of(info.key_type), _of(info.value_type), max_size=3)
        case shape.AnyType():
            return _JSON
        case shape.BoolType():
            return st.booleans()
        case shape.NoneType():
            return st.none()
        case _:
            raise NotImplementedError(f"no strategy for {info}")


def _number(info: shape.IntType | shape.FloatType) -> st.SearchStrategy[float]:
    if isinstance(info, shape.FloatType):
        low, above = (info.ge, False) if info.gt is None else (info.gt, True)
        return st.floats(low, info.le, exclude_min=above, allow_nan=False, allow_infinity=False)
    step = info.multiple_of or 1
    least = math.ceil(info.ge / step) if info.ge is not None else -(2**53)
    most = info.le // step if info.le is not None else 2**53
    return st.integers(least, most).map(lambda n: n * step)


def events() -> st.SearchStrategy[TaskEvent]:
    """Give any event, whether or not anybody would write it."""
    return st.one_of([of(kind) for kind in TOKENS])


def recorded() -> st.SearchStrategy[Recorded]:
    """Give any event of one task at any place in its log, unreadable ones too."""
    event = events() | st.just(Undecodable("written by a stranger"))
    return st.builds(Recorded, event, st.just(TASK), st.integers(1, 1000), _MOMENTS, st.just(EventId("e")))


def errors() -> st.SearchStrategy[TaskError]:
    return st.builds(
        TaskError, code=st.just("broken"), message=st.just("broke"), error_class=st.sampled_from(ErrorClass)
    )


def submissions() -> st.SearchStrategy[AnySubmission]:
    """Give submissions that are soon over: few attempts, short deadlines."""
    return st.builds(
        lambda tries, start_s, more_s, tenant, tags, together: image(
            max_attempts=tries,
            start_deadline=T0 + timedelta(seconds=start_s),
            deadline=T0 + timedelta(seconds=start_s + more_s),
            tenant=tenant,
            tags=tags,
            batch=InBatch(batch_id=TENANTS[tenant], size=2, place=0) if together else None,
        ),
        st.integers(1, 4),
        st.integers(1, 400),
        st.integers(0, 400),
        st.sampled_from([*TENANTS]),
        st.sampled_from([(), ("zoo",), ("zoo", "night")]),
        st.booleans(),
    )


def remembered(log: list[Recorded]) -> list[Recorded]:
    """Give what is left of a log once all its erasures have been seen through."""
    erased = {one.task_id: one.sequence for one in log if isinstance(one.event, TaskErased)}
    return [one for one in log if one.sequence >= erased.get(one.task_id, 0)]


def last_of_each(history: list[Recorded]) -> list[Recorded]:
    """Give what a lookup sees: the last message of each subject, which is of each kind of event."""
    seen = {type(one.event): one for one in history}
    return sorted(seen.values(), key=lambda one: one.sequence)


class Hold(Struct, eq=False):
    """A dispatcher with a ticket whose attempt runs: the task as it believes it to be."""

    task: Task
    last: int


class Writers:
    """Everybody who appends to one task, each as the code does it: decided on a lookup, guarded.

    ``skew`` is how far the dispatchers' clock is from the server's. ``holds`` are dispatchers that believe
    they run the task; all but the latest were thought dead and learn at their next append that they are.
    """

    def __init__(self, *, task_id: TaskId = TASK, skew: timedelta = timedelta(0), start: int = 1) -> None:
        self.task_id = task_id
        self.history: list[Recorded] = []
        self.now = T0
        self.holds: list[Hold] = []
        self._skew = skew
        self._next = start

    @property
    def last(self) -> int:
        return self.history[-1].sequence if self.history else 0

    @property
    def here(self) -> datetime:
        """What the dispatchers' clock shows."""
        return self.now + self._skew

    def lookup(self) -> Task:
        return fold(self.task_id, last_of_each(self.history))

    def has(self, *kinds: type[TaskEvent]) -> bool:
        return any(isinstance(one.event, kinds) for one in self.history)

    def append(self, event: TaskEvent) -> None:
        """Store without a guard."""
        number = self._next
        self._next += 1
        self.history.append(Recorded(event, self.task_id, number, self.now, EventId(f"e-{number}")))

    def tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def submit(self, submission: AnySubmission) -> None:
        self.append(TaskSubmitted(submission=submission))

    def schedule(self, submission: AnySubmission) -> None:
        self.append(TaskScheduled(submission=submission))

    def fire(self) -> None:
        """Let the server store the ticket of a delayed task, whatever has become of the task."""
        for one in self.history:
            if isinstance(one.event, TaskScheduled) and not self.has(TaskSubmitted):
                self.append(TaskSubmitted(submission=one.event.submission))

    def cancel(self) -> None:
        self._decided(decide(self.lookup(), CancelTask(by="default"), self.now))

    def sweep(self) -> None:
        self._decided(decide(self.lookup(), ExpireTask(), self.now))

    def _decided(self, decision: TaskEvent | Refusal) -> None:
        if not isinstance(decision, Refusal):
            self.append(decision)

    def pull(self, *, alive: bool, input_gone: bool = False) -> None:
        """Take the ticket, if there is one, and do what the decider says."""
        if not self.has(TaskSubmitted):
            return
        task = self.lookup()
        step = with_ticket(task, now=self.here, alive=alive)
        match step:
            case Ack() | Wait():
                return
            case End():
                self.append(step.event)
            case Presume():
                self.append(step.event)
                self.pull(alive=alive, input_gone=input_gone)
            case Start(attempt=number):
                if input_gone:
                    gone = TaskError(code="input_gone", message="gone")
                    self.append(TaskFailed(error=gone, attempts=task.attempts))
                    return
                hold = Hold(task, self.last)
                self.holds.append(hold)
                self._write(hold, TaskStarted(attempt=number, backend=GPU, dispatcher="a"))

    def attach(self, which: int) -> None:
        if hold := self._hold(which):
            self._write(hold, TaskAttached(attempt=hold.task.attempt, dispatcher="a", remote_id="job"))

    def finish(self, which: int) -> None:
        if hold := self._hold(which):
            self._write(hold, TaskDone(attempt=hold.task.attempt, artifacts=(artifact(),), usage=_USAGE))

    def fail(self, which: int, cause: TaskError) -> None:
        if hold := self._hold(which):
            self._settle(hold, after_failure(hold.task, cause, now=self.here, policy=POLICY))

    def hand_back(self, which: int) -> None:
        if hold := self._hold(which):
            self._settle(hold, handed_back(hold.task, "shutdown", now=self.here))

    def erase(self) -> None:
        """Take the content away as the api does, which folds the whole history."""
        task = fold(self.task_id, self.history)
        if task.final and task.erased_at is None:
            self.append(erasure.erased(task, self.history[0].sequence, "client"))

    def _hold(self, which: int) -> Hold | None:
        return self.holds[which % len(self.holds)] if self.holds else None

    def _settle(self, hold: Hold, step: FailureStep) -> None:
        if self._write(hold, step.event) and not hold.task.final:
            self.holds.remove(hold)

    def _write(self, hold: Hold, event: TaskEvent) -> bool:
        """Append under the guard; who is not the last to have written lets go of the task."""
        if hold.last != self.last:
            self.holds.remove(hold)
            return False
        self.append(event)
        seen = Recorded(event, self.task_id, self.last, self.here)
        hold.task, hold.last = evolve(hold.task, seen), self.last
        if hold.task.final:
            self.holds.remove(hold)
        return True


def actions() -> st.SearchStrategy[Callable[[Writers], None]]:
    """Give what anybody may do next to a task that exists."""
    which = st.integers(0, 3)
    return st.one_of(
        st.builds(lambda alive: partial(Writers.pull, alive=alive), st.booleans()),
        st.builds(lambda seconds: partial(Writers.tick, seconds=seconds), st.integers(1, 90)),
        st.builds(lambda n, cause: partial(Writers.fail, which=n, cause=cause), which, errors()),
        st.builds(lambda n: partial(Writers.hand_back, which=n), which),
        st.builds(lambda n: partial(Writers.attach, which=n), which),
        st.builds(lambda n: partial(Writers.finish, which=n), which),
        st.sampled_from([Writers.fire, Writers.fire, Writers.cancel, Writers.sweep, Writers.erase]),
    )


@st.composite
def histories(draw: st.DrawFn, task_id: TaskId = TASK) -> list[Recorded]:
    """Give the history of a task, as the system could have written it."""
    writers = Writers(task_id=task_id, skew=timedelta(seconds=draw(st.integers(-5, 5))))
    begin = draw(st.sampled_from([Writers.submit, Writers.schedule]))
    begin(writers, draw(submissions()))
    for act in draw(st.lists(actions(), max_size=30)):
        act(writers)
    if draw(st.booleans()):  # by chance alone few are ever erased
        writers.cancel()
        writers.erase()
    return writers.history
