"""Whose turn it is."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.subjects import Lane
from services.scheduling.fairness import Priorities, Turns
from services.scheduling.situation import Line


def lane(number: int = 0, priority: str = "normal", model: str = "x", kind: str = "image") -> Lane:
    return Lane(kind, model, priority, number)


def line(of: Lane, waiting: int = 1, waited_s: float = 0.0) -> Line:
    return Line(lane=of, waiting=waiting, waited_s=waited_s)


def upcoming(turns: Turns, lines: list[Line]) -> Lane | None:
    turns.admit(lines)
    found = turns.order(lines).next()
    return found.lane if found else None


def serve(turns: Turns, lines: list[Line], seconds: float) -> Lane:
    served = upcoming(turns, lines)
    assert served is not None
    turns.serve(served, seconds)
    return served


A, B, C = lane(0), lane(1), lane(2)


def test_where_nothing_waits_it_is_nobody_s_turn() -> None:
    assert upcoming(Turns(), []) is None


def test_lanes_are_served_by_the_seconds_that_they_had_not_by_tickets() -> None:
    turns, lines = Turns(), [line(A, 9), line(B, 9)]
    costs = {A: 10.0, B: 2.0}
    served = []
    for _ in range(12):
        served.append(upcoming(turns, lines))
        turns.serve(served[-1] or A, costs[served[-1] or A])
    assert Counter(served) == {A: 2, B: 10}


def test_a_charge_is_corrected_when_the_truth_is_known() -> None:
    turns, lines = Turns(), [line(A, 9), line(B, 9)]
    assert serve(turns, lines, 5.0) == A
    assert serve(turns, lines, 8.0) == B
    turns.settle(A, 5.0, 9.0)
    assert upcoming(turns, lines) == B


def test_a_pull_that_found_nothing_costs_nothing() -> None:
    turns, lines = Turns(), [line(A, 9), line(B, 9)]
    assert serve(turns, lines, 5.0) == A
    turns.settle(A, 5.0, 0.0)
    assert upcoming(turns, lines) == A


@given(cost=st.floats(0.1, 100), backlog=st.integers(1, 1000))
def test_a_thousand_tasks_delay_another_lane_by_about_one(cost: float, backlog: int) -> None:
    turns = Turns()
    for _ in range(backlog):
        serve(turns, [line(A, 1000)], cost)
    lines = [line(A, 1000), line(B)]
    assert B in [serve(turns, lines, cost) for _ in range(2)]


@given(idle=st.integers(0, 50))
def test_a_lane_gets_no_credit_for_the_time_without_work(idle: int) -> None:
    turns = Turns()
    serve(turns, [line(B)], 4.0)
    for _ in range(idle):
        serve(turns, [line(A, 99)], 4.0)
    lines = [line(A, 99), line(B, 99)]
    assert Counter(serve(turns, lines, 4.0) for _ in range(8))[B] <= 5


def test_a_lane_pays_for_at_most_its_last_ticket_of_the_past() -> None:
    turns = Turns()
    for _ in range(100):
        serve(turns, [line(A, 99)], 7.0)
    turns.admit([])
    serve(turns, [line(B, 9)], 1.0)
    lines = [line(A, 9), line(B, 9)]
    before = 0
    while serve(turns, lines, 1.0) == B:
        before += 1
    assert before <= 7


def test_one_task_at_a_time_gets_no_more_than_a_backlog() -> None:
    turns, backlog, single = Turns(), [line(A, 99)], line(B)
    for _ in range(20):
        first = serve(turns, [*backlog, single], 1.0)
        turns.admit(backlog if first == B else [*backlog, single])
    lines = [*backlog, single]
    assert Counter(serve(turns, lines, 1.0) for _ in range(10)) == {A: 5, B: 5}


@given(costs=st.lists(st.floats(0.5, 60), min_size=2, max_size=8), rounds=st.integers(50, 300))
def test_in_the_long_run_backlogged_lanes_get_equal_seconds(costs: list[float], rounds: int) -> None:
    turns = Turns()
    lines = [line(lane(number), 999) for number in range(len(costs))]
    spent = dict.fromkeys(range(len(costs)), 0.0)
    for _ in range(rounds):
        number = serve_by(turns, lines, lambda of: costs[of.number]).number
        spent[number] += costs[number]
    assert max(spent.values()) - min(spent.values()) <= max(costs) + 1e-6


def serve_by(turns: Turns, lines: list[Line], cost: Callable[[Lane], float]) -> Lane:
    served = upcoming(turns, lines)
    assert served is not None
    turns.serve(served, cost(served))
    return served


@pytest.mark.parametrize(
    ("first", "later"), [("high", "normal"), ("normal", "low"), ("low", "someday"), ("high", "low")]
)
def test_strict_a_higher_priority_goes_first(first: str, later: str) -> None:
    turns = Turns()
    high, low = lane(1, first), lane(0, later)
    lines = [line(low, 9), line(high, 9)]
    assert [serve(turns, lines, 9.0) for _ in range(5)] == [high] * 5


@given(lanes=st.integers(1, 6), cost=st.floats(1, 30))
def test_strict_low_waits_no_longer_than_ageing_lets_it(lanes: int, cost: float) -> None:
    turns, ageing_s = Turns(ageing_s=60.0), 60.0
    highs, low = [lane(number, "high") for number in range(lanes)], lane(9, "low")
    since = dict.fromkeys([*highs, low], 0.0)
    now = 0.0
    while now < 4 * ageing_s + lanes * cost:
        lines = [line(of, 99, now - began) for of, began in since.items()]
        served = serve(turns, lines, cost)
        if served == low:
            break
        now += cost
        since[served] = now
    assert now <= 3 * ageing_s + (lanes + 1) * cost


def test_strict_what_has_aged_a_level_is_level_with_the_next_priority() -> None:
    turns = Turns(ageing_s=60.0)
    normal, low = lane(0, "normal"), lane(0, "low")
    lines = [line(normal, 9), line(low, 9, waited_s=60.0)]
    turns.admit(lines)
    turns.serve(normal, 1.0)
    assert upcoming(turns, lines) == low


@given(costs=st.tuples(*[st.floats(1, 20)] * 3))
def test_weighted_priorities_share_seconds_nine_to_three_to_one(costs: tuple[float, float, float]) -> None:
    turns = Turns("weighted")
    lanes = {"high": lane(0, "high"), "normal": lane(0, "normal"), "low": lane(0, "low")}
    lines = [line(of, 9999) for of in lanes.values()]
    cost = dict(zip(lanes, costs, strict=True))
    spent = dict.fromkeys(lanes, 0.0)
    while sum(spent.values()) < 2000:
        served = serve_by(turns, lines, lambda of: cost[of.priority])
        spent[served.priority] += cost[served.priority]
    unit = sum(spent.values()) / 13
    assert spent == {
        "high": pytest.approx(9 * unit, abs=2.5 * 9 * 20 / 3),
        "normal": pytest.approx(3 * unit, abs=2.5 * 20),
        "low": pytest.approx(unit, abs=2.5 * 20),
    }


@pytest.mark.parametrize("priorities", ["strict", "weighted"])
def test_trying_things_out_changes_no_account(priorities: Priorities) -> None:
    turns, lines = Turns(priorities), [line(A, 9), line(B, 9)]
    turns.admit(lines)
    order = turns.order(lines)
    tried = []
    for _ in range(4):
        found = order.next()
        assert found is not None
        tried.append(found.lane)
        order.served(1.0, more=True)
    assert tried == [A, B, A, B]
    assert upcoming(turns, lines) == A


def test_a_line_without_more_tickets_leaves_the_order() -> None:
    turns, lines = Turns(), [line(A), line(B)]
    turns.admit(lines)
    order = turns.order(lines)
    found = []
    while taken := order.next():
        found.append(taken.lane)
        order.served(1.0, more=False)
    assert found == [A, B]


def test_weighted_a_line_that_leaves_is_charged_to_its_priority_all_the_same() -> None:
    turns = Turns("weighted")
    lines = [line(lane(0, "high")), line(lane(1, "high")), line(lane(0, "low"))]
    turns.admit(lines)
    order = turns.order(lines)
    found = []
    while taken := order.next():
        found.append(taken.lane.priority)
        order.served(1.0, more=False)
    assert found == ["high", "low", "high"]


def test_kinds_do_not_compete() -> None:
    turns, speech = Turns(), lane(0, kind="speech")
    for _ in range(9):
        serve(turns, [line(A, 9)], 100.0)
    turns.admit([line(A, 9), line(speech, 9)])
    turns.serve(speech, 1.0)
    fresh = [line(A, 9), line(B, 9)]
    assert Counter(serve(turns, fresh, 100.0) for _ in range(4)) == {A: 2, B: 2}


def test_queues_on_gpus_of_unequal_speed_do_not_lock_out_one_that_comes_between_them() -> None:
    turns = Turns()
    fast, slow, both = lane(0, model="fast"), lane(0, model="slow"), lane(0, model="any")
    lines = [line(fast, 99), line(slow, 99)]
    turns.admit(lines)
    for _ in range(1000):
        turns.serve(fast, 8.0)
        turns.admit(lines)
    turns.serve(slow, 8.0)
    contended = [line(fast, 99), line(both, 99)]
    turns.admit([*lines, *contended[1:]])
    served = 0
    while upcoming(turns, contended) == both:
        turns.serve(both, 8.0)
        served += 1
    assert served <= 12


def test_lanes_long_without_work_are_forgotten() -> None:
    turns = Turns()
    for number in range(2000):
        serve(turns, [line(lane(0, model=f"m{number}"))], 5.0)
        serve(turns, [line(A, 99)], 5.0)
    accounts = turns._lanes["image"]  # noqa: SLF001 - its size shows nowhere else
    assert len(accounts._spent) <= 10  # noqa: SLF001 - as above
