"""How a backend is; busy is not dead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dispatcher.backends.base import Health, Loading, Misconfigured, Ready, Refused, Silent
from services.dispatcher.policies.health import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Condition,
    State,
    next_probe_s,
    probed,
    served,
    suspended,
)

UP = State(Condition.UP)
DOWN = State(Condition.DOWN, "gone", strikes=1)
ANSWERS: list[Health] = [Ready(), Loading("loads"), Misconfigured("401"), Refused("gone"), Silent()]


@pytest.mark.parametrize("before", [State(), UP, DOWN])
@pytest.mark.parametrize(
    ("seen", "condition"),
    [
        (Ready(("a",)), Condition.UP),
        (Loading("loads"), Condition.LOADING),
        (Misconfigured("401"), Condition.MISCONFIGURED),
        (Refused("gone"), Condition.DOWN),
    ],
)
@pytest.mark.parametrize("busy", [True, False])
def test_what_answers_says_how_it_is(before: State, seen: Health, condition: Condition, busy: bool) -> None:  # noqa: FBT001 - a column of the table
    after = probed(before, seen, busy=busy)

    assert after.condition is condition
    assert after.up == (condition is Condition.UP)


def test_silence_while_our_own_call_runs_there_says_busy() -> None:
    state = UP
    for _ in range(100):
        state = probed(state, Silent(), busy=True)

    assert state == UP


def test_silence_while_nothing_runs_is_death_at_the_third_time() -> None:
    state = UP
    for _ in range(2):
        state = probed(state, Silent(), busy=False)
        assert state.up
    state = probed(state, Silent(), busy=False)

    assert (state.condition, state.reason) == (Condition.DOWN, "does not answer")


def test_an_answer_in_between_starts_the_count_anew() -> None:
    state = UP
    for _ in range(10):
        state = probed(state, Silent(), busy=False)
        state = probed(state, Ready(), busy=False)

    assert state == UP


@pytest.mark.parametrize("busy", [True, False])
def test_what_was_never_up_is_not_up_by_silence(busy: bool) -> None:  # noqa: FBT001 - a column of the table
    assert probed(State(), Silent(), busy=busy).condition is Condition.DOWN


@pytest.mark.parametrize("condition", [Condition.DOWN, Condition.OVERLOADED, Condition.MISCONFIGURED])
def test_a_call_that_was_turned_away_stops_work_until_a_probe_succeeds(condition: Condition) -> None:
    state = suspended(UP, condition, "503")

    assert (state.condition, state.reason, state.refusals) == (condition, "503", 1)
    assert probed(state, Ready(), busy=False).up


def test_who_answers_probes_and_refuses_calls_is_asked_ever_less_often() -> None:
    state, pauses = UP, []
    for _ in range(12):
        state = suspended(state, Condition.OVERLOADED, "503")
        pauses.append(next_probe_s(state, busy=False, idle_s=5, busy_s=1))
        state = probed(state, Ready(), busy=False)

    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_a_call_that_was_served_forgives_the_refusals() -> None:
    state = served(probed(suspended(UP, Condition.OVERLOADED, "503"), Ready(), busy=False))

    assert state == UP


def test_what_is_up_is_probed_steadily() -> None:
    assert next_probe_s(UP, busy=False, idle_s=5, busy_s=1) == 5
    assert next_probe_s(UP, busy=True, idle_s=5, busy_s=1) == 1


def test_what_is_not_up_is_probed_soon_and_then_ever_less_often() -> None:
    state, pauses = UP, []
    for _ in range(11):
        state = probed(state, Refused("gone"), busy=False)
        pauses.append(next_probe_s(state, busy=False, idle_s=5, busy_s=1))

    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


@given(st.lists(st.tuples(st.sampled_from(ANSWERS), st.booleans()), max_size=40))
def test_whatever_is_seen_the_next_probe_comes_in_bounds(seen: list[tuple[Health, bool]]) -> None:
    state = State()
    for answer, busy in seen:
        state = probed(state, answer, busy=busy)
        pause_s = next_probe_s(state, busy=busy, idle_s=5, busy_s=1)
        assert pause_s in {5, 1} if state.up else FIRST_PAUSE_S <= pause_s <= LONGEST_PAUSE_S
        assert state.reason is None or not state.up
