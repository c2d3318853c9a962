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


def line(of: Lane, waiting: int = 1, since: float = 0.0) -> Line:
    return Line(lane=of, waiting=waiting, since=since)


def upcoming(turns: Turns, lines: list[Line], now: float = 0.0) -> Lane | None:
    turns.admit_only("image", lines)
    found = turns.order("image", now).next()
    return found.lane if found else None


def serve(turns: Turns, lines: list[Line], seconds: float, now: float = 0.0) -> Lane:
    served = upcoming(turns, lines, now)
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
    turns.admit_only("image", [])
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
        turns.admit_only("image", backlog if first == B else [*backlog, single])
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
        lines = [line(of, 99, began) for of, began in since.items()]
        served = serve(turns, lines, cost, now)
        if served == low:
            break
        now += cost
        since[served] = now
    assert now <= 3 * ageing_s + (lanes + 1) * cost


def test_strict_what_has_aged_a_level_is_level_with_the_next_priority() -> None:
    turns = Turns(ageing_s=60.0)
    normal, low = lane(0, "normal"), lane(0, "low")
    lines = [line(normal, 9, since=59.0), line(low, 9)]
    turns.admit_only("image", lines)
    turns.serve(normal, 1.0)
    assert upcoming(turns, lines, 59.0) == normal
    assert upcoming(turns, lines, 60.0) == low


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
    turns.admit_only("image", lines)
    order = turns.order("image", 0.0)
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
    turns.admit_only("image", lines)
    order = turns.order("image", 0.0)
    found = []
    while taken := order.next():
        found.append(taken.lane)
        order.served(1.0, more=False)
    assert found == [A, B]


def test_weighted_a_line_that_leaves_is_charged_to_its_priority_all_the_same() -> None:
    turns = Turns("weighted")
    lines = [line(lane(0, "high")), line(lane(1, "high")), line(lane(0, "low"))]
    turns.admit_only("image", lines)
    order = turns.order("image", 0.0)
    found = []
    while taken := order.next():
        found.append(taken.lane.priority)
        order.served(1.0, more=False)
    assert found == ["high", "low", "high"]


def test_kinds_do_not_compete() -> None:
    turns, speech = Turns(), lane(0, kind="speech")
    for _ in range(9):
        serve(turns, [line(A, 9)], 100.0)
    turns.admit({A: line(A, 9), speech: line(speech, 9)})
    turns.serve(speech, 1.0)
    fresh = [line(A, 9), line(B, 9)]
    assert Counter(serve(turns, fresh, 100.0) for _ in range(4)) == {A: 2, B: 2}


@given(
    rounds=st.lists(st.sets(st.sampled_from("xyzw")), min_size=1, max_size=8),
    owned=st.sets(st.sampled_from("xyz")),
)
def test_what_waits_for_any_of_some_models_is_known_whatever_came_and_went(
    rounds: list[set[str]], owned: set[str]
) -> None:
    turns = Turns()
    for models in rounds:
        wanted = [model.replace("w", "any") for model in models]
        turns.admit_only("image", [line(lane(n, model=model)) for model in wanted for n in (0, 1)])
        assert turns.waits("image", owned) == ("any" in wanted or not owned.isdisjoint(wanted))
        assert not turns.waits("speech", owned)


def test_queues_on_gpus_of_unequal_speed_do_not_lock_out_one_that_comes_between_them() -> None:
    turns = Turns()
    fast, slow, both = lane(0, model="fast"), lane(0, model="slow"), lane(0, model="any")
    lines = [line(fast, 99), line(slow, 99)]
    turns.admit_only("image", lines)
    for _ in range(1000):
        turns.serve(fast, 8.0)
        turns.admit_only("image", lines)
    turns.serve(slow, 8.0)
    contended = [line(fast, 99), line(both, 99)]
    turns.admit_only("image", [*lines, *contended[1:]])
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
    assert len(turns.accounts("image")) <= 10


_LANES = st.builds(
    lane, st.integers(0, 2), st.sampled_from(["high", "normal", "low", "someday"]), st.sampled_from("xy")
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("work"), _LANES, st.floats(0, 500)),
        st.tuples(st.just("none"), _LANES, st.just(0.0)),
        st.tuples(st.just("serve"), _LANES, st.floats(0, 200)),
        st.tuples(st.just("settle"), _LANES, st.floats(0, 200)),
        st.tuples(st.just("look"), _LANES, st.floats(0, 100)),
    ),
    max_size=60,
)


@given(_STEPS)
def test_strict_the_order_is_that_of_all_lanes_sorted_anew(steps: list[tuple[str, Lane, float]]) -> None:
    turns, now, lines = Turns(ageing_s=60.0), 500.0, dict[Lane, Line]()
    ranks = {"high": 0, "normal": 1, "low": 2, "someday": 3}

    def place(of: Lane) -> tuple[float, float, Lane]:
        return (
            ranks[of.priority] - (now - lines[of].since) // 60.0,
            turns.accounts("image").of(of),
            of,
        )

    for what, which, number in [*steps, ("look", A, 0.0)]:
        match what:
            case "work":
                lines[which] = line(which, since=number)
                turns.admit({which: lines[which]})
            case "none":
                lines.pop(which, None)
                turns.admit({which: None})
            case "serve":
                turns.serve(which, number)
            case "settle":
                turns.settle(which, 10.0, number)
            case _:
                now += number
                order, found = turns.order("image", now), list[Lane]()
                while taken := order.next():
                    found.append(taken.lane)
                assert found == sorted(lines, key=place)


@given(_STEPS)
def test_who_comes_is_level_with_who_is_there_or_a_charge_behind(
    steps: list[tuple[str, Lane, float]],
) -> None:
    turns, working, dearest = Turns(), set[Lane](), 0.0
    accounts = turns.accounts("image")

    def least(of: Lane) -> float | None:
        whose = of.model, of.priority
        alike = [accounts.of(one) for one in working if (one.model, one.priority) == whose]
        return min(alike or map(accounts.of, working), default=None)

    for what, which, number in steps:
        match what:
            case "work" if which not in working:
                floor = least(which)
                turns.admit({which: line(which)})
                working.add(which)
                assert floor is None or floor <= accounts.of(which) <= floor + dearest + 1e-6
            case "none":
                turns.admit({which: None})
                working.discard(which)
            case "serve" if which in working:
                turns.serve(which, number)
                dearest = max(dearest, number, 0.001)
            case _:
                continue
        leasts = [found for one in working if (found := least(one)) is not None]
        assert not leasts or max(leasts) - min(leasts) <= 60.0 + 3 * dearest


@given(
    spent=st.lists(st.floats(0, 50), min_size=1, max_size=8),
    taken=st.integers(0, 10),
    priorities=st.sampled_from(["strict", "weighted"]),
)
def test_the_first_that_can_be_run_is_the_next_of_such_and_stays(
    spent: list[float], taken: int, priorities: Priorities
) -> None:
    turns = Turns(priorities)
    lanes = [
        lane(number, model="xy"[number % 2], priority=["high", "low"][number % 3 > 0])
        for number in range(len(spent))
    ]
    turns.admit_only("image", [line(of) for of in lanes])
    for of, seconds in zip(lanes, spent, strict=True):
        turns.serve(of, seconds)
    order = turns.order("image", 0.0)
    for _ in range(taken):
        order.next()
        order.served(7.0, more=True)
    first = order.first(lambda model: model == "y")
    assert order.first(lambda model: model == "y") is first
    rest = []
    while found := order.next():
        rest.append(found)
    assert first == next((found for found in rest if found.lane.model == "y"), None)
