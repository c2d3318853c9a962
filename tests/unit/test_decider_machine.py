"""Whatever backends and dispatchers do, the decider brings every task to an end, and within its bounds."""

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from schemas.events import (
    AttemptFailed,
    ErrorClass,
    TaskDone,
    TaskError,
    TaskEvent,
    TaskStarted,
    TaskSubmitted,
    Usage,
)
from schemas.requests import AnySubmission
from schemas.task import Status, Task, evolve
from services.dispatcher.decider import (
    LOOK_AGAIN,
    Ack,
    Again,
    End,
    FailureStep,
    Presume,
    Start,
    Wait,
    after_failure,
    handed_back,
    with_ticket,
)
from services.dispatcher.policies.retry import HANDBACK_CAP, HANDBACK_FIRST, RetryPolicy
from tests import strategies
from tests.builders import GPU, T0, TASK, error, record

POLICY = RetryPolicy()
COUNTED = {ErrorClass.TRANSIENT, ErrorClass.LOST}


class Deciding(RuleBasedStateMachine):
    """One task and its ticket: ``visible_at`` is when it may be pulled again, ``held`` whether a living
    dispatcher has it."""

    def __init__(self) -> None:
        super().__init__()
        self.task = Task(task_id=TASK)
        self.now = T0
        self.visible_at = T0
        self.held = False
        self.acked = False
        self.tries = 0
        self.max_attempts = 0

    def happens(self, event: TaskEvent) -> None:
        moment = (self.now - T0).total_seconds()
        self.task = evolve(self.task, record(event, self.task.sequence + 1, after=moment))

    @initialize(submission=strategies.submissions())
    def begin(self, submission: AnySubmission) -> None:
        self.max_attempts = submission.max_attempts
        self.happens(TaskSubmitted(submission=submission))

    @rule(seconds=st.integers(1, 20))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: not self.acked and not self.held)
    @rule()
    def the_ticket_is_pulled(self) -> None:
        self.now = max(self.now, self.visible_at)
        step = with_ticket(self.task, now=self.now, alive=False)
        match step:
            case Ack():
                assert self.task.final
                self.acked = True
            case Wait(delay=delay):
                assert self.task.status is Status.RETRYING
                assert timedelta(0) < delay <= POLICY.cap
                self.visible_at = self.now + delay
            case Start(attempt=number):
                assert number == self.task.attempt + 1
                self.happens(TaskStarted(attempt=number, backend=GPU, dispatcher="a"))
                self.held = True
            case End(event=event):
                self.happens(event)
                self.acked = True
            case Presume(event=event):
                self.count(event)
                self.happens(event)
                assert isinstance(with_ticket(self.task, now=self.now, alive=False), Start | End)

    @precondition(lambda self: self.held)
    @invariant()
    def another_dispatcher_leaves_it_alone_meanwhile(self) -> None:
        step = with_ticket(self.task, now=self.now, alive=True)

        assert isinstance(step, Wait | End)
        assert not isinstance(step, Wait) or step.delay == LOOK_AGAIN

    @precondition(lambda self: self.held)
    @rule(error_class=st.sampled_from(sorted(COUNTED)))
    def the_attempt_breaks(self, error_class: ErrorClass) -> None:
        self.the_attempt_fails(error(error_class), None)

    @precondition(lambda self: self.held)
    @rule(cause=strategies.errors(), asked_s=st.sampled_from([None, 0.0, 0.5, 3.0, 1e6]))
    def the_attempt_fails(self, cause: TaskError, asked_s: float | None) -> None:
        overdue = self.task.submission is not None and self.task.submission.deadline
        step = after_failure(self.task, cause, now=self.now, policy=POLICY, retry_after_s=asked_s)
        if cause.error_class is ErrorClass.PERMANENT:
            assert isinstance(step, End)
        elif cause.error_class not in COUNTED:
            assert isinstance(step, Again) or (overdue and self.now >= overdue)
            assert isinstance(step, End) or HANDBACK_FIRST <= step.delay <= HANDBACK_CAP
        self.settle(step)

    @precondition(lambda self: self.held)
    @rule()
    def the_dispatcher_stops(self) -> None:
        step = handed_back(self.task, "shutdown", now=self.now)

        assert step.delay == timedelta(0)
        self.settle(step)

    @precondition(lambda self: self.held)
    @rule()
    def the_dispatcher_dies(self) -> None:
        self.held = False

    @precondition(lambda self: self.held)
    @rule()
    def the_attempt_succeeds(self) -> None:
        self.happens(TaskDone(attempt=self.task.attempt, artifacts=(), usage=Usage(run_s=1)))
        assert self.task.status is Status.DONE
        self.held = False

    def settle(self, step: FailureStep) -> None:
        before = self.task.counted
        self.held = False
        self.count(step.event)
        self.happens(step.event)
        match step:
            case End():
                assert self.task.final
                self.acked = True
            case Again(delay=delay):
                assert timedelta(0) <= delay <= max(POLICY.cap, HANDBACK_CAP)
                assert self.task.counted == before + isinstance(step.event, AttemptFailed)
                self.visible_at = self.now + delay

    def count(self, event: TaskEvent) -> None:
        self.tries += isinstance(event, AttemptFailed)

    @invariant()
    def no_more_tries_are_used_up_than_allowed(self) -> None:
        assert self.task.counted == self.tries
        assert self.tries < max(1, self.max_attempts)

    @invariant()
    def attempts_are_numbered_from_one(self) -> None:
        numbers = [attempt.attempt for attempt in self.task.attempts]
        assert numbers == list(range(1, len(numbers) + 1))

    def teardown(self) -> None:
        """Let backends be away for ever: even then the task ends, at its total deadline."""
        if self.task.status is Status.ABSENT:
            return
        for _ in range(1000):
            if self.task.final and not self.held:
                break
            if self.held:
                self.the_attempt_fails(error(ErrorClass.BACKEND_DOWN), None)
            self.now = max(self.now, self.visible_at) + timedelta(seconds=1)
            if not self.acked:
                self.the_ticket_is_pulled()
        assert self.task.final


TestDeciding = Deciding.TestCase
