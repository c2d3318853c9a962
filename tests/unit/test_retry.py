"""When an attempt is tried again."""

from datetime import timedelta

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
