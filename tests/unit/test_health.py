"""How a backend is; busy is not dead."""

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.fleet import Circuit, Condition
from services.dispatcher.backends.base import Health, Loading, Misconfigured, Ready, Refused, Silent
from services.dispatcher.policies.health import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Limits,
    State,
    failed,
    heard,
    next_probe_s,
    phase,
    probed,
    served,
    shown,
    spread,
    stuck,
    suspended,
    told,
    unstuck,
    width,
)
from tests.builders import T0, at

UP = State(condition=Condition.UP)
DOWN = State(condition=Condition.DOWN, reason="gone", strikes=1)
LIMITS = Limits(failures=3, open_for=timedelta(seconds=5))
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
    state = served(probed(suspended(UP, Condition.OVERLOADED, "503"), Ready(), busy=False), T0, 1)

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


def opened(times: int = 3, seconds: float = 0) -> State:
    state = UP
    for _ in range(times):
        state = failed(state, "CUDA error", at(seconds), LIMITS, canary=False)
    return state


def test_failures_in_a_row_open_the_circuit_and_one_less_does_not() -> None:
    assert width(opened(2), T0, 4, last=False) == 4
    assert width(opened(3), T0, 4, last=False) == 0
    assert shown(opened(3), T0) is Condition.FAILING


def test_a_success_in_between_starts_the_count_of_failures_anew() -> None:
    state = failed(served(opened(2), T0, 4), "again", T0, LIMITS, canary=False)

    assert (state.circuit, state.failures) == (Circuit.CLOSED, 1)


def test_a_circuit_that_was_open_for_its_time_lets_one_canary_through() -> None:
    state = opened()

    assert phase(state, at(4.9)) is Circuit.OPEN
    assert phase(state, at(5)) is Circuit.HALF_OPEN
    assert width(state, at(5), 4, last=False) == 1


def test_a_canary_that_comes_back_lets_in_ever_more() -> None:
    state, widths = opened(), []
    for _ in range(4):
        state = served(state, at(5), 8)
        widths.append(width(state, at(5), 8, last=False))

    assert widths == [2, 4, 8, 8]
    assert state == UP


def test_a_canary_that_does_not_come_back_opens_the_circuit_for_twice_as_long() -> None:
    state, lasted = opened(), []
    now = 0.0
    for _ in range(9):
        assert state.open_until is not None
        lasted.append((state.open_until - at(now)).total_seconds())
        now += lasted[-1]
        state = failed(state, "CUDA error", at(now), LIMITS, canary=True)

    assert lasted == [5, 10, 20, 40, 80, 160, 300, 300, 300]


@pytest.mark.parametrize("now", [0, 5, 60])
def test_what_was_under_way_before_does_not_decide_for_a_canary(now: float) -> None:
    state = opened()
    after = failed(state, "lost in the crash", at(now), LIMITS, canary=False)

    assert (after.circuit, after.openings, after.open_until) == (state.circuit, 1, state.open_until)
    recovered = probed(suspended(UP, Condition.DOWN, "gone"), Ready(), busy=False)
    lost = failed(recovered, "lost in the crash", at(now), LIMITS, canary=False)
    assert shown(lost, at(now)) is Condition.UP
    assert width(lost, at(now), 4, last=False) == 1


def test_the_last_of_its_kind_works_on_whatever_fails_there() -> None:
    assert width(opened(), T0, 4, last=True) == 4
    assert width(suspended(UP, Condition.DOWN, "gone"), T0, 4, last=True) == 0


@pytest.mark.parametrize("condition", [Condition.DOWN, Condition.MISCONFIGURED])
def test_what_comes_back_from_where_work_would_have_failed_begins_with_a_canary(
    condition: Condition,
) -> None:
    state = probed(suspended(UP, condition, "gone"), Ready(), busy=False)

    assert width(state, T0, 4, last=False) == 1
    assert width(served(state, T0, 4), T0, 4, last=False) == 2


def test_what_was_overloaded_begins_with_one_slot() -> None:
    state = probed(suspended(UP, Condition.OVERLOADED, "503"), Ready(), busy=False)

    assert (state.circuit, width(state, T0, 4, last=False)) == (Circuit.CLOSED, 1)


def test_what_has_just_been_started_begins_with_all_it_has() -> None:
    loading = probed(State(), Loading("loads"), busy=False)

    assert width(probed(State(), Ready(), busy=False), T0, 4, last=False) == 4
    assert width(probed(loading, Ready(), busy=False), T0, 4, last=False) == 4


def test_a_stuck_slot_takes_its_backend_out_of_use_until_it_has_ended() -> None:
    state = stuck(UP, "slot image-1.0 does not come free", T0)

    assert shown(state, T0) is Condition.STUCK
    assert width(state, at(10_000), 4, last=True) == 0
    assert width(unstuck(state), T0, 4, last=False) == 1


@pytest.mark.parametrize(
    "state", [UP, DOWN, opened(), opened(2), served(opened(), T0, 8), unstuck(stuck(UP, "slow", T0))]
)
@pytest.mark.parametrize("now", [0, 5])
def test_a_dispatcher_that_hears_of_a_circuit_uses_as_much_as_the_one_that_told(
    state: State, now: float
) -> None:
    known = heard(UP, told(state, T0, "dispatcher-a"))

    if state.up:
        assert width(known, at(now), 8, last=False) == width(state, at(now), 8, last=False)
        assert shown(known, at(now)) is shown(state, at(now))
    else:
        assert known.up, "whether it answers is seen from here"


def test_word_that_a_backend_is_stuck_holds_as_long_as_it_is_said() -> None:
    known = heard(UP, told(stuck(UP, "slow", T0), T0, "dispatcher-a"))

    assert shown(known, at(59)) is Condition.STUCK
    assert width(known, at(59), 4, last=True) == 0
    assert width(known, at(60), 4, last=False) == 1


def test_a_fleet_is_not_probed_all_at_once() -> None:
    tenths = Counter(int(10 * spread(f"image-{number}")) for number in range(1, 65))
    assert set(tenths) == set(range(10))
    assert max(tenths.values()) <= 13
