"""When an attempt is tried again."""

from datetime import timedelta
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import TaskId
from services.dispatcher.policies.retry import (
    HANDBACK_CAP,
    HANDBACK_FIRST,
    RetryPolicy,
    handback_delay,
    retry_delay,
    spread,
)
from tests.builders import OTHER, TASK

POLICY = RetryPolicy(base=timedelta(seconds=2), cap=timedelta(seconds=30))
IDS = st.uuids().map(lambda value: TaskId(str(value)))


@given(IDS, st.integers(1, 1000))
def test_a_retry_waits_at_most_the_doubled_base_and_the_cap(task_id: TaskId, counted: int) -> None:
    delay = retry_delay(POLICY, task_id, counted)

    assert timedelta(0) <= delay <= min(POLICY.cap, POLICY.base * 2 ** min(counted - 1, 20))
    assert delay == retry_delay(POLICY, task_id, counted)


@pytest.mark.parametrize(("counted", "ceiling_s"), [(1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (1000, 30)])
def test_retries_are_spread_over_all_of_a_time_that_doubles(counted: int, ceiling_s: float) -> None:
    tasks = [TaskId(f"task-{number}") for number in range(200)]
    delays = [retry_delay(POLICY, task_id, counted).total_seconds() for task_id in tasks]

    assert min(delays) < 0.05 * ceiling_s
    assert 0.95 * ceiling_s < max(delays) < ceiling_s


def test_a_first_retry_comes_within_a_second_and_the_last_within_a_minute() -> None:
    assert RetryPolicy() == RetryPolicy(base=timedelta(seconds=1), cap=timedelta(seconds=60))


@given(st.integers(1, 1000))
def test_a_hand_back_waits_from_1_to_60_seconds(handbacks: int) -> None:
    delay = handback_delay(handbacks)

    assert HANDBACK_FIRST <= delay <= HANDBACK_CAP
    assert delay <= handback_delay(handbacks + 1)


@pytest.mark.parametrize(("handbacks", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)])
def test_hand_backs_double(handbacks: int, seconds: int) -> None:
    assert handback_delay(handbacks) == timedelta(seconds=seconds)


@given(IDS, st.integers(0, 1000))
def test_the_spread_is_a_stable_part_of_one(task_id: TaskId, number: int) -> None:
    assert 0 <= spread(task_id, number) < 1
    assert spread(task_id, number) == spread(task_id, number)


def test_tasks_and_attempts_that_failed_together_come_back_apart() -> None:
    points = {spread(task_id, number) for task_id in (TASK, OTHER) for number in range(1, 51)}

    assert len(points) == 100
    assert 0.35 < sum(points) / len(points) < 0.65


@pytest.mark.parametrize("number", [2, 3, 4])
def test_tasks_that_met_at_one_try_part_at_the_next(number: int) -> None:
    tasks = [TaskId(f"{TASK[:-3]}{n:03}") for n in range(300)]
    met = [(a, b) for a, b in combinations(tasks, 2) if abs(spread(a, 1) - spread(b, 1)) < 0.01]
    again = [pair for pair in met if abs(spread(pair[0], number) - spread(pair[1], number)) < 0.01]

    assert len(again) < 0.1 * len(met)
