"""What a dispatcher does with a ticket, and with an attempt that has ended, row by row."""

from datetime import timedelta

import pytest
from msgspec import structs

from schemas.events import (
    AttemptFailed,
    Deadline,
    ErrorClass,
    TaskEvent,
    TaskExpired,
    TaskFailed,
    TaskRequeued,
    TaskStarted,
    Undecodable,
)
from schemas.ids import BackendId
from schemas.lease import Lease
from services.dispatcher.decider import (
    LOST,
    UNDECODABLE,
    Ack,
    Again,
    End,
    Presume,
    Start,
    TicketStep,
    Wait,
    after_failure,
    can_go_on,
    handed_back,
    prefers_elsewhere,
    with_ticket,
)
from services.dispatcher.policies.retry import RetryPolicy
from tests.builders import (
    GPU,
    TASK,
    at,
    attached,
    attempt_failed,
    cancelled,
    done,
    error,
    expired,
    failed,
    requeued,
    scheduled,
    started,
    submitted,
    task,
    tried,
)

POLICY = RetryPolicy()
RUNNING: list[TaskEvent] = [submitted(), started()]
RETRYING: list[TaskEvent] = [submitted(), started(), attempt_failed(retry_at=30)]
UNCOUNTED = [ErrorClass.OVERLOADED, ErrorClass.BACKEND_DOWN, ErrorClass.MISCONFIGURED]
COUNTED = [ErrorClass.TRANSIENT, ErrorClass.LOST]
END = 172_800


@pytest.mark.parametrize(
    ("happened", "alive", "step"),
    [
        ([submitted(), cancelled()], False, Ack()),
        ([scheduled(), cancelled(), submitted()], False, Ack()),
        ([submitted(), started(), done()], False, Ack()),
        ([submitted(), started(), failed()], False, Ack()),
        ([submitted(), expired()], False, Ack()),
        ([submitted()], False, Start(1)),
        ([scheduled(), submitted()], False, Start(1)),
        ([submitted(), started(), requeued()], False, Start(2)),
        (RETRYING, False, Wait(timedelta(seconds=10))),
        (RUNNING, True, Wait(timedelta(seconds=10))),
        ([*RUNNING, attached()], True, Wait(timedelta(seconds=10))),
        ([], False, End(TaskFailed(error=UNDECODABLE))),
        ([Undecodable("?")], False, End(TaskFailed(error=UNDECODABLE))),
    ],
)
def test_a_ticket_is_dealt_with_by_the_state_of_its_task(
    happened: list[TaskEvent],
    alive: bool,  # noqa: FBT001 - a column of the table
    step: TicketStep,
) -> None:
    assert with_ticket(task(*happened), now=at(20), alive=alive) == step


LEASE = Lease(task_id=TASK, attempt=1, remote_id="job-1")


@pytest.mark.parametrize(
    ("happened", "lease", "expected"),
    [
        ([*RUNNING, attached()], LEASE, True),
        # Its dispatcher died between the two: the lease knows the id, and the log does not.
        (RUNNING, LEASE, True),
        ([*RUNNING, attached(remote_id="job-2")], LEASE, False),
        (RUNNING, structs.replace(LEASE, remote_id=None), False),
        (RUNNING, structs.replace(LEASE, attempt=2), False),
        ([submitted()], LEASE, False),
        ([*RUNNING, attached(), requeued()], LEASE, False),
        ([*RUNNING, attached(), done()], LEASE, False),
        ([*RUNNING, attached(), cancelled()], LEASE, False),
    ],
)
def test_an_attempt_is_gone_on_with_while_it_runs_under_the_id_of_the_lease(
    happened: list[TaskEvent],
    lease: Lease,
    expected: bool,  # noqa: FBT001 - a column of the table
) -> None:
    assert can_go_on(task(*happened), lease, GPU) is expected
    assert not can_go_on(task(*happened), lease, BackendId("image-2"))


@pytest.mark.parametrize("now", [30, 31])
def test_a_retry_starts_once_it_is_due(now: float) -> None:
    assert with_ticket(task(*RETRYING), now=at(now), alive=False) == Start(2)


def test_an_attempt_whose_dispatcher_is_gone_is_presumed_lost() -> None:
    lost = tried(1, cause=LOST, end=20)

    assert with_ticket(task(*RUNNING), now=at(20), alive=False) == Presume(
        AttemptFailed(attempt=1, error=LOST, retry_at=at(20), counted=1, attempts=(lost,))
    )


def test_a_task_that_was_presumed_lost_starts_at_once() -> None:
    step = with_ticket(task(*RUNNING), now=at(20), alive=False)

    assert isinstance(step, Presume)
    assert with_ticket(task(*RUNNING, step.event), now=at(20), alive=False) == Start(2)


def test_a_task_whose_last_try_is_lost_has_failed() -> None:
    running = task(submitted(max_attempts=1), started())

    assert with_ticket(running, now=at(20), alive=False) == End(
        TaskFailed(error=LOST, attempts=(tried(1, cause=LOST, end=20),))
    )


@pytest.mark.parametrize("happened", [[submitted()], [scheduled(), submitted()]])
def test_a_ticket_that_comes_too_late_to_start_expires(happened: list[TaskEvent]) -> None:
    step = with_ticket(task(*happened), now=at(86_400), alive=False)

    assert step == End(TaskExpired(deadline=Deadline.START, due_at=at(86_400)))


@pytest.mark.parametrize("happened", [RUNNING, RETRYING, [submitted(), started(), requeued()]])
@pytest.mark.parametrize("alive", [True, False])
def test_a_ticket_beyond_the_total_deadline_expires(happened: list[TaskEvent], alive: bool) -> None:  # noqa: FBT001 - a column of the table
    step = with_ticket(task(*happened), now=at(END), alive=alive)

    assert step == End(TaskExpired(deadline=Deadline.TOTAL, due_at=at(END)))


def test_a_permanent_error_ends_the_task() -> None:
    cause = error(ErrorClass.PERMANENT, "bad_prompt")

    assert after_failure(task(*RUNNING), cause, now=at(4), policy=POLICY) == End(
        TaskFailed(error=cause, attempts=(tried(1, cause=cause),))
    )


@pytest.mark.parametrize("error_class", COUNTED)
def test_an_error_of_the_attempt_uses_up_a_try_and_waits(error_class: ErrorClass) -> None:
    cause = error(error_class)
    step = after_failure(task(*RUNNING), cause, now=at(4), policy=POLICY)

    assert isinstance(step, Again)
    assert timedelta(0) <= step.delay <= POLICY.base
    assert step.event == AttemptFailed(
        attempt=1,
        error=cause,
        retry_at=at(4) + step.delay,
        counted=1,
        attempts=(tried(1, cause=cause),),
    )


@pytest.mark.parametrize("error_class", COUNTED)
@pytest.mark.parametrize(("counted", "ends"), [(0, False), (1, False), (2, True)])
def test_the_last_try_ends_the_task(error_class: ErrorClass, counted: int, ends: bool) -> None:  # noqa: FBT001 - a column of the table
    running = task(submitted(), started(), attempt_failed(counted=counted), started(2))

    step = after_failure(running, error(error_class), now=at(6), policy=POLICY)
    assert isinstance(step, End) is ends


@pytest.mark.parametrize("error_class", UNCOUNTED)
def test_an_error_of_the_backend_costs_the_task_nothing(error_class: ErrorClass) -> None:
    cause = error(error_class, "away")
    running = task(submitted(max_attempts=1), started())

    assert after_failure(running, cause, now=at(4), policy=POLICY) == Again(
        TaskRequeued(attempt=1, reason="away", handbacks=1, counted=0, attempts=(tried(1, cause=cause),)),
        timedelta(seconds=1),
    )


@pytest.mark.parametrize("error_class", ErrorClass)
def test_a_failure_beyond_the_total_deadline_expires_the_task(error_class: ErrorClass) -> None:
    step = after_failure(task(*RUNNING), error(error_class), now=at(END), policy=POLICY)

    assert step == End(TaskExpired(deadline=Deadline.TOTAL, due_at=at(END)))


def test_a_dispatcher_that_stops_hands_back_without_a_wait() -> None:
    step = handed_back(task(*RUNNING), "shutdown", now=at(4))

    assert step.delay == timedelta(0)
    assert isinstance(step.event, TaskRequeued)
    assert step.event.attempts[0].finished_at == at(4)
    assert step.event.attempts[0].error is None


@pytest.mark.parametrize(
    ("handbacks", "asked_s", "seconds"),
    [
        (0, None, 1),
        (3, None, 8),
        (20, None, 60),
        (0, 0.5, 1),
        (0, 3, 3),
        (0, 9999, 4),
        (3, 9999, 32),
        (20, 9999, 60),
    ],
)
def test_hand_backs_wait_ever_longer_and_a_backend_may_ask_for_some_more(
    handbacks: int, asked_s: float | None, seconds: float
) -> None:
    running = task(submitted(), started(), requeued(handbacks=handbacks), started(2))
    cause = error(ErrorClass.OVERLOADED)

    step = handed_back(running, "busy", now=at(9), error=cause, retry_after_s=asked_s)
    assert step.delay == timedelta(seconds=seconds)


def test_a_retry_goes_elsewhere_for_a_while_where_there_is_another() -> None:
    waiting = task(*RETRYING)

    assert prefers_elsewhere(waiting, GPU, others=lambda: True, now=at(30))
    assert prefers_elsewhere(waiting, GPU, others=lambda: True, now=at(39.9))
    assert not prefers_elsewhere(waiting, GPU, others=lambda: True, now=at(40))
    assert not prefers_elsewhere(waiting, GPU, others=lambda: False, now=at(30))
    assert not prefers_elsewhere(waiting, "image-2", others=lambda: True, now=at(30))


def test_a_task_that_was_handed_back_goes_elsewhere_too() -> None:
    back = task(submitted(), started(), requeued())

    assert prefers_elsewhere(back, GPU, others=lambda: True, now=at(5))
    assert not prefers_elsewhere(back, GPU, others=lambda: True, now=at(15))


def test_only_a_failure_is_a_reason_to_go_elsewhere() -> None:
    stopped = handed_back(task(*RUNNING), "shutdown", now=at(4)).event

    assert not prefers_elsewhere(task(submitted()), GPU, others=lambda: True, now=at(5))
    assert not prefers_elsewhere(task(*RUNNING, stopped), GPU, others=lambda: True, now=at(5))


def test_the_backend_that_counts_is_the_last_one() -> None:
    second = TaskStarted(attempt=2, backend=BackendId("image-2"), dispatcher="a")
    running = task(*RETRYING, second)
    step = after_failure(running, error(), now=at(40), policy=POLICY)

    assert isinstance(step, Again)
    waiting = task(*RETRYING, second, step.event)
    assert prefers_elsewhere(waiting, "image-2", others=lambda: True, now=at(41))
    assert not prefers_elsewhere(waiting, GPU, others=lambda: True, now=at(41))
