"""What may be asked of a task that exists, and the answer."""

import pytest

from schemas.commands import CancelTask, Command, ExpireTask, Refusal, decide, due, expired
from schemas.events import Deadline, TaskCancelled, TaskEvent, TaskExpired
from tests.builders import (
    at,
    attempt_failed,
    cancelled,
    done,
    failed,
    requeued,
    scheduled,
    started,
    submitted,
    task,
)
from tests.builders import expired as overdue

CANCEL = CancelTask(by="ada", reason="changed my mind")
START, END = 86_400, 172_800

WAITING: list[list[TaskEvent]] = [[scheduled()], [scheduled(), submitted()], [submitted()]]
BEGUN: list[list[TaskEvent]] = [
    [submitted(), started()],
    [submitted(), started(), attempt_failed()],
    [submitted(), started(), requeued()],
]


@pytest.mark.parametrize("happened", [*WAITING, *BEGUN])
def test_what_is_not_over_can_be_cancelled(happened: list[TaskEvent]) -> None:
    assert decide(task(*happened), CANCEL, at(0)) == TaskCancelled(by="ada", reason="changed my mind")


@pytest.mark.parametrize("happened", [*WAITING, *BEGUN])
def test_what_is_not_due_does_not_expire(happened: list[TaskEvent]) -> None:
    assert decide(task(*happened), ExpireTask(), at(START - 1)) is Refusal.NOT_DUE


@pytest.mark.parametrize("happened", WAITING)
def test_what_has_not_begun_expires_at_its_start_deadline(happened: list[TaskEvent]) -> None:
    assert decide(task(*happened), ExpireTask(), at(START)) == TaskExpired(
        deadline=Deadline.START, due_at=at(START)
    )


@pytest.mark.parametrize("happened", BEGUN)
def test_what_has_begun_expires_at_its_total_deadline_only(happened: list[TaskEvent]) -> None:
    assert decide(task(*happened), ExpireTask(), at(END - 1)) is Refusal.NOT_DUE
    assert decide(task(*happened), ExpireTask(), at(END)) == TaskExpired(
        deadline=Deadline.TOTAL, due_at=at(END)
    )


@pytest.mark.parametrize("command", [CANCEL, ExpireTask()])
@pytest.mark.parametrize(
    ("happened", "refusal"),
    [
        ([], Refusal.UNKNOWN),
        ([submitted(), cancelled()], Refusal.ALREADY_CANCELLED),
        ([scheduled(), cancelled(), submitted()], Refusal.ALREADY_CANCELLED),
        ([submitted(), started(), done()], Refusal.ALREADY_FINISHED),
        ([submitted(), started(), failed()], Refusal.ALREADY_FINISHED),
        ([submitted(), overdue()], Refusal.ALREADY_FINISHED),
    ],
)
def test_what_is_over_or_never_was_is_left_alone(
    happened: list[TaskEvent], refusal: Refusal, command: Command
) -> None:
    assert decide(task(*happened), command, at(END)) is refusal


def test_the_earlier_deadline_is_the_one_that_is_due() -> None:
    early_end = task(submitted(start_deadline=at(60), deadline=at(30)))

    assert due(early_end) == (Deadline.TOTAL, at(30))


def test_a_task_without_deadlines_is_never_due() -> None:
    endless = task(submitted(start_deadline=None, deadline=None))

    assert due(endless) is None
    assert expired(endless, at(10**9)) is None


def test_a_task_that_is_over_is_never_due() -> None:
    assert due(task(submitted(), cancelled())) is None
