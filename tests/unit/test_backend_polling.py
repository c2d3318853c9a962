"""How soon the end of a job is noticed, and when a job is given up."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dispatcher.backends.classify import Trouble
from services.dispatcher.backends.polling import (
    MAX_REFUSALS,
    PATIENCE_S,
    Drought,
    hopeless,
    next_poll,
    without_answer,
)

durations = st.floats(0.01, 3600)


def noticed_after(end_s: float, expected_s: float | None) -> tuple[float, int]:
    """Play a job that ends then; give the time from its end to the poll that sees it, and the polls."""
    now, polls = 0.0, 0
    while now < end_s:
        now += next_poll(now, expected_s)
        polls += 1
    return now - end_s, polls


@given(durations)
def test_without_an_expectation_the_end_is_noticed_within_two_percent(end_s: float) -> None:
    late_s, _ = noticed_after(end_s, None)
    assert late_s <= max(0.02 * end_s, 0.02) + 1e-9


@given(durations, st.floats(0.1, 1.25))
def test_near_the_expected_end_it_is_noticed_within_one_percent(end_s: float, ratio: float) -> None:
    late_s, _ = noticed_after(end_s, end_s * ratio)
    assert late_s <= max(0.01 * end_s, 0.01) + 1e-9


@given(durations, durations)
def test_an_early_end_is_noticed_within_ten_percent(end_s: float, expected_s: float) -> None:
    late_s, _ = noticed_after(end_s, expected_s)
    assert late_s <= max(0.1 * end_s, 0.02) + 1e-9


@given(st.floats(0, 1e6), st.none() | st.floats(0, 1e6))
def test_a_gap_is_never_nothing_nor_endless(elapsed_s: float, expected_s: float | None) -> None:
    assert 0 < next_poll(elapsed_s, expected_s) <= 10


def test_an_expectation_saves_most_of_the_polls() -> None:
    _, informed = noticed_after(60.0, 60.0)
    _, blind = noticed_after(60.0, None)
    assert informed <= 150
    assert informed < blind / 2


@pytest.mark.parametrize("trouble", [Trouble.LOST, Trouble.UNREACHABLE, None])
def test_a_server_that_makes_no_sense_is_given_up_after_a_while(trouble: Trouble | None) -> None:
    drought = without_answer(Drought(), trouble, 100.0)
    drought = without_answer(drought, trouble, 100.0 + PATIENCE_S)
    assert not hopeless(drought, 100.0 + PATIENCE_S)
    assert hopeless(drought, 100.1 + PATIENCE_S)


def test_a_process_that_is_gone_is_given_up_soon() -> None:
    drought = Drought()
    for number in range(1, MAX_REFUSALS + 1):
        drought = without_answer(drought, Trouble.REFUSED, float(number) / 4)
        assert hopeless(drought, float(number) / 4) is (number == MAX_REFUSALS)


def test_silence_is_never_a_reason_to_give_up() -> None:
    drought = Drought()
    for number in range(100):
        drought = without_answer(drought, Trouble.SILENT, number * 5.0)
        assert not hopeless(drought, number * 5.0)


def test_polls_come_closer_as_the_end_comes_near() -> None:
    at = [0.0]
    while at[-1] < 50:
        at.append(at[-1] + next_poll(at[-1], 60.0))
    gaps = [after - before for before, after in pairwise(at)]
    assert 48.0 in [round(moment, 6) for moment in at]
    assert max(gaps[-3:]) <= 0.25
