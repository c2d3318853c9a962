"""The table of transitions, and what each event changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import (
    TOKENS,
    Deadline,
    Recorded,
    TaskAttached,
    TaskErased,
    TaskEvent,
    TaskStarted,
    Undecodable,
)
from schemas.task import FINAL, TRANSITIONS, WAITING, Status, Task, evolve, fold, legal
from tests import strategies
from tests.builders import (
    GPU,
    TASK,
    artifact,
    at,
    attached,
    attempt_failed,
    cancelled,
    done,
    error,
    expired,
    failed,
    history,
    image,
    record,
    requeued,
    scheduled,
    started,
    submitted,
    task,
    tried,
)


def test_every_event_has_a_place_in_the_life_of_a_task() -> None:
    assert {event for _, event in TRANSITIONS} == set(TOKENS)


def test_final_states_are_those_that_nothing_leaves() -> None:
    leavable = {before for (before, _), after in TRANSITIONS.items() if after is not before}

    assert set(Status) - leavable == FINAL


def test_no_event_leads_back_to_absence() -> None:
    assert Status.ABSENT not in TRANSITIONS.values()
    assert not WAITING & FINAL


@pytest.mark.parametrize(
    ("happened", "status"),
    [
        ([], Status.ABSENT),
        ([scheduled()], Status.SCHEDULED),
        ([scheduled(), submitted()], Status.QUEUED),
        ([submitted()], Status.QUEUED),
        ([submitted(), started()], Status.RUNNING),
        ([submitted(), started(), attached()], Status.RUNNING),
        ([submitted(), started(), attempt_failed()], Status.RETRYING),
        ([submitted(), started(), requeued()], Status.QUEUED),
        ([submitted(), started(), attempt_failed(), started(2)], Status.RUNNING),
        ([submitted(), started(), done()], Status.DONE),
        ([submitted(), started(), failed()], Status.FAILED),
        ([submitted(), cancelled()], Status.CANCELLED),
        ([scheduled(), cancelled()], Status.CANCELLED),
        ([scheduled(), expired()], Status.EXPIRED),
        ([submitted(), started(), expired()], Status.EXPIRED),
        ([Undecodable("?"), failed()], Status.FAILED),
        ([submitted(), started(), done(), TaskErased(by="default")], Status.DONE),
    ],
)
def test_a_history_leads_to_its_status(happened: list[TaskEvent], status: Status) -> None:
    assert task(*happened).status is status


@pytest.mark.parametrize(
    "happened",
    [
        [started()],
        [done()],
        [cancelled()],
        [submitted(), done()],
        [submitted(), submitted()],
        [scheduled(), started()],
        [submitted(), TaskErased(by="default")],
        [scheduled(), cancelled(), submitted()],
        [submitted(), cancelled(), done()],
        [submitted(), Undecodable("?")],
    ],
)
def test_an_event_out_of_place_changes_nothing(happened: list[TaskEvent]) -> None:
    before, last = task(*happened[:-1]), history(*happened)[-1]

    assert not legal(before, last)
    assert evolve(before, last) == before


def test_events_fold_in_the_order_of_their_sequences() -> None:
    shuffled = [record(started(), 2), record(done(), 3), record(submitted(), 1)]

    assert fold(TASK, shuffled).status is Status.DONE


def test_a_delayed_task_was_submitted_when_it_was_scheduled() -> None:
    assert task(scheduled(), submitted()).submitted_at == at(1)


def test_a_started_attempt_is_open_and_dated_by_the_log() -> None:
    running = task(submitted(), started())

    assert running.attempt == 1
    assert running.dispatcher == "dispatcher-a"
    assert running.attempts[0].started_at == at(2)
    assert running.attempts[0].finished_at is None


def test_an_accepted_attempt_can_be_found_again() -> None:
    assert task(submitted(), started(), attached()).remote_id == "job-1"


def test_a_failed_attempt_stays_in_the_list_and_its_task_waits_for_its_time() -> None:
    waiting = task(submitted(), started(), attached(), attempt_failed(retry_at=10))

    assert waiting.attempts == (tried(1),)
    assert waiting.retry_at == at(10)
    assert waiting.counted == 1
    assert (waiting.dispatcher, waiting.remote_id) == (None, None)


def test_the_next_attempt_stands_behind_the_earlier_ones() -> None:
    running = task(submitted(), started(), attempt_failed(), started(2))

    assert [attempt.attempt for attempt in running.attempts] == [1, 2]
    assert running.retry_at is None


def test_handing_back_counts_in_a_row_until_an_attempt_fails() -> None:
    back = task(submitted(), started(), requeued(handbacks=4))

    assert back.handbacks == 4
    assert back.counted == 0
    assert evolve(back, record(attempt_failed(), 9)).handbacks == 0


def test_a_finished_task_has_its_result_and_no_open_attempt() -> None:
    finished = task(submitted(), started(), done(text="hello"))

    assert finished.artifacts == (artifact(),)
    assert finished.text == "hello"
    assert finished.finished_at == finished.attempts[0].finished_at == at(3)
    assert finished.attempts[0].error is None
    assert finished.dispatcher is None


def test_a_failed_task_keeps_the_error_and_the_attempts_that_it_was_given() -> None:
    dead = task(submitted(), started(), failed((tried(1),)))

    assert dead.attempts == (tried(1),)
    assert dead.error is not None


def test_a_task_that_failed_without_a_list_keeps_the_attempts_it_had() -> None:
    assert [a.attempt for a in task(submitted(), started(), failed()).attempts] == [1]


@pytest.mark.parametrize("deadline", Deadline)
def test_an_expired_task_says_which_deadline_passed(deadline: Deadline) -> None:
    over = task(submitted(), expired(deadline))

    assert over.error is not None
    assert over.error.code == f"{deadline}_deadline_passed"


def test_erasing_takes_the_content_and_leaves_the_facts() -> None:
    erased = task(submitted(), started(), done(text="secret"), TaskErased(by="default"))

    assert (erased.text, erased.artifacts) == (None, ())
    assert erased.status is Status.DONE
    assert erased.finished_at == at(3)
    assert erased.sequence == 4


def test_a_lookup_may_see_what_one_attempt_added_behind_what_a_later_one_replaced() -> None:
    whole = history(
        submitted(), started(1), attached(1), requeued(1, handbacks=1), started(2), requeued(2, handbacks=2)
    )

    assert strategies.last_of_each(whole) == [whole[0], whole[2], whole[4], whole[5]]
    assert fold(TASK, strategies.last_of_each(whole)) == fold(TASK, whole)


def test_an_attempt_started_anew_under_its_number_replaces_the_one_before() -> None:
    again = task(submitted(), started(1), TaskStarted(attempt=1, backend=GPU, dispatcher="b"))

    assert [attempt.attempt for attempt in again.attempts] == [1]
    assert again.dispatcher == "b"


@given(st.lists(strategies.recorded(), max_size=12))
def test_any_events_in_any_order_fold_and_an_end_is_an_end(happened: list[Recorded]) -> None:
    current = Task(task_id=TASK)
    for recorded in happened:
        after = evolve(current, recorded)
        assert after.status is current.status or not current.final
        assert legal(current, recorded) or after is current
        current = after


@given(st.lists(strategies.recorded(), max_size=12))
def test_an_event_applied_twice_in_a_row_counts_once(happened: list[Recorded]) -> None:
    current = Task(task_id=TASK)
    for recorded in happened:
        once = evolve(current, recorded)
        assert evolve(once, recorded) == once
        current = once


@given(strategies.histories())
def test_a_lookup_gives_the_task_that_the_whole_history_gives(whole: list[Recorded]) -> None:
    assert fold(TASK, strategies.last_of_each(whole)) == fold(TASK, whole)


def test_what_a_task_was_asked_is_what_the_first_event_says() -> None:
    assert task(submitted(max_attempts=5)).submission == image(max_attempts=5)
    assert (
        task(submitted(), started(), TaskAttached(attempt=1, dispatcher="b", remote_id="x")).dispatcher
        == "b"
    )
    assert task(submitted(), started(), failed()).error == error(failed().error.error_class)
