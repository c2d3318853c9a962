"""Whatever the api, the dispatchers, the sweeper and the server do to a task, its log makes sense."""

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from schemas.events import TaskError, TaskStarted
from schemas.requests import AnySubmission
from schemas.task import FINAL, TRANSITIONS, Status, Task, evolve, fold
from tests import strategies
from tests.builders import TASK
from tests.strategies import Writers

ENDINGS = {event for (_, event), after in TRANSITIONS.items() if after in FINAL} - {
    event for (before, event) in TRANSITIONS if before in FINAL
}
WHICH = st.integers(0, 3)


class Lifecycle(RuleBasedStateMachine):
    """Writers do what they can; ``ended`` is how the task was when it was first seen at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.writers = Writers()
        self.max_attempts = 0
        self.ended: Status | None = None

    @initialize(submission=strategies.submissions(), later=st.booleans(), skew_s=st.integers(-5, 5))
    def begin(self, submission: AnySubmission, later: bool, skew_s: int) -> None:  # noqa: FBT001 - drawn
        self.writers = Writers(skew=timedelta(seconds=skew_s))
        self.max_attempts = submission.max_attempts
        (self.writers.schedule if later else self.writers.submit)(submission)

    @rule(seconds=st.integers(1, 90))
    def time_passes(self, seconds: int) -> None:
        self.writers.tick(seconds)

    @rule()
    def the_schedule_fires_however_late(self) -> None:
        self.writers.fire()

    @rule(alive=st.booleans(), input_gone=st.integers(0, 9).map(lambda n: n == 0))
    def a_dispatcher_pulls(self, alive: bool, input_gone: bool) -> None:  # noqa: FBT001 - drawn
        self.writers.pull(alive=alive, input_gone=input_gone)

    @precondition(lambda self: self.writers.holds)
    @rule(which=WHICH)
    def a_backend_accepts(self, which: int) -> None:
        self.writers.attach(which)

    @precondition(lambda self: self.writers.holds)
    @rule(which=WHICH, cause=strategies.errors())
    def an_attempt_fails(self, which: int, cause: TaskError) -> None:
        self.writers.fail(which, cause)

    @precondition(lambda self: self.writers.holds)
    @rule(which=WHICH)
    def a_dispatcher_stops(self, which: int) -> None:
        self.writers.hand_back(which)

    @precondition(lambda self: self.writers.holds)
    @rule(which=WHICH)
    def an_attempt_succeeds(self, which: int) -> None:
        self.writers.finish(which)

    @rule(really=st.integers(0, 4).map(lambda n: n == 0))
    def a_user_cancels(self, really: bool) -> None:  # noqa: FBT001 - drawn; seldom, or nothing grows old
        if really:
            self.writers.cancel()

    @rule()
    def the_sweeper_looks(self) -> None:
        self.writers.sweep()

    @rule()
    def content_is_erased(self) -> None:
        self.writers.erase()

    @property
    def task(self) -> Task:
        return fold(TASK, self.writers.history)

    @invariant()
    def a_lookup_shows_the_same_task_as_the_whole_history(self) -> None:
        assert self.writers.lookup() == self.task

    @invariant()
    def an_event_taken_in_twice_changes_nothing(self) -> None:
        twice = Task(task_id=TASK)
        for recorded in self.writers.history:
            once = evolve(twice, recorded)
            twice = evolve(once, recorded)
            assert twice == once

    @invariant()
    def there_is_at_most_one_final_event_and_the_status_it_set_stays(self) -> None:
        task = self.task
        ends = [one for one in self.writers.history if type(one.event) in ENDINGS]
        assert len(ends) == (1 if task.final else 0)
        if self.ended is not None:
            assert task.status is self.ended
        self.ended = task.status if task.final else None

    @invariant()
    def no_more_tries_are_counted_than_allowed(self) -> None:
        counted = self.task.counted
        assert counted < self.max_attempts or counted == 0

    @invariant()
    def attempts_are_numbered_in_order_each_number_once(self) -> None:
        begun = [one.event.attempt for one in self.writers.history if isinstance(one.event, TaskStarted)]
        shown = [attempt.attempt for attempt in self.task.attempts]
        assert begun == list(range(1, len(begun) + 1)) == shown

    @invariant()
    def only_the_last_attempt_of_a_running_task_is_open(self) -> None:
        task = self.task
        still_open = [one.attempt for one in task.attempts if one.finished_at is None]
        assert still_open == ([task.attempt] if task.status is Status.RUNNING else [])


TestLifecycle = Lifecycle.TestCase
