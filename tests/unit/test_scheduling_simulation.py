"""What would have been."""

from functools import cache
from typing import Any

import pytest

from schemas.ids import BackendId
from schemas.subjects import Lane
from services.scheduling.fairness import Priorities, Turns
from services.scheduling.outcome import Outcome, Percentiles, percentiles
from services.scheduling.policies import POLICIES
from services.scheduling.scenarios import unequal_arrivals, unequal_machines
from services.scheduling.simulation import Arrival, Machine, simulate

LEC = "least_expected_completion"


def machine(name: str = "a", **members: Any) -> Machine:  # Any: whatever a Machine has
    fixed = {"kind": "image", "models": {"x": "x"}, "seconds": {"x": 10.0}}
    return Machine(name=BackendId(name), **{**fixed, **members})


def arrival(
    at_s: float = 0.0, model: str = "x", number: int = 0, **members: Any
) -> Arrival:  # Any: as above
    return Arrival(at_s=at_s, lane=Lane("image", model, "normal", number), **members)


def replayed(arrivals: list[Arrival], machines: list[Machine], policy: str = LEC) -> Outcome:
    return simulate(arrivals, machines, policy, Turns(), model_load_s=15.0)


@cache
def unequal(policy: str, load: float, priorities: Priorities = "strict") -> Outcome:
    arrivals = unequal_arrivals(load, 1500, seed=1)
    return simulate(arrivals, unequal_machines(), policy, Turns(priorities), model_load_s=15.0)


def test_a_replay_of_nothing_has_no_figures() -> None:
    found = replayed([], [machine()])
    assert (found.tasks, found.loads, found.total.p99, found.utilisation) == (0, 0, 0.0, {"a": 0.0})


@pytest.mark.parametrize("policy", POLICIES)
def test_tasks_wait_for_each_other_on_one_gpu(policy: str) -> None:
    found = replayed([arrival(100.0 + at) for at in (0, 1, 2)], [machine()], policy)
    assert found.waiting == Percentiles(p50=9.0, p95=18.0, p99=18.0)
    assert found.total == Percentiles(p50=19.0, p95=28.0, p99=28.0)
    assert (found.tasks, found.utilisation) == (3, {"a": 1.0})


def test_units_and_a_task_s_own_factor_lengthen_its_run() -> None:
    found = replayed([arrival(units=2.0, factor=1.5)], [machine()])
    assert found.total.p50 == 30.0


def test_a_slot_each_runs_at_once() -> None:
    found = replayed([arrival(), arrival()], [machine(slots=2)])
    assert (found.total.p99, found.utilisation) == (10.0, {"a": 1.0})


def test_a_model_that_is_not_loaded_costs_a_load() -> None:
    models, seconds = {"x": "x", "y": "y"}, {"x": 10.0, "y": 10.0}
    two = machine(warm=("x",), models=models, seconds=seconds, load_s=20.0)
    found = replayed([arrival(), arrival(40.0, "y"), arrival(80.0, "y")], [two])
    assert (found.loads, found.total.p50, found.total.p99) == (1, 10.0, 30.0)


def test_what_runs_have_shown_is_foretold_better() -> None:
    found = replayed([arrival(20.0 * number) for number in range(10)], [machine()])
    assert found.eta_error == Percentiles(p50=0.0, p95=9.0, p99=9.0)


def test_a_task_that_no_gpu_can_run_is_counted_and_holds_nothing_up() -> None:
    found = replayed([arrival(model="z"), arrival(1.0)], [machine()])
    assert (found.tasks, found.unserved) == (1, 1)


def test_fairness_is_that_of_the_time_in_which_all_wait() -> None:
    hog = [arrival(tenant="hog") for _ in range(50)]
    other = [arrival(25.0, number=1, tenant="other", units=0.5) for _ in range(20)]
    shared = replayed(hog + other, [machine()])
    assert shared.fairness == pytest.approx(1.0, abs=0.02)
    mixed = replayed(hog + [arrival(25.0, tenant="other") for _ in range(5)], [machine()])
    assert mixed.fairness == pytest.approx(0.5, abs=0.05)
    assert replayed(hog, [machine()]).fairness is None


def test_a_user_stays_on_one_gpu_with_affinity() -> None:
    machines = [machine(name) for name in "abcd"]
    arrivals = [arrival(20.0 * number, user="u") for number in range(8)]
    found = replayed(arrivals, machines, "user_affinity")
    assert sorted(found.utilisation.values())[:3] == [0.0, 0.0, 0.0]


def test_a_replay_repeats() -> None:
    twice = [replayed(list(unequal_arrivals(0.7, 200, seed=3)), unequal_machines()) for _ in range(2)]
    assert twice[0] == twice[1]


@pytest.mark.parametrize(("load", "p95_s"), [(0.5, 22.0), (0.7, 32.0)])
def test_on_unequal_gpus_the_default_keeps_waits_short(load: float, p95_s: float) -> None:
    found = unequal(LEC, load)
    assert found.total.p95 < p95_s
    assert found.loads < 0.05 * found.tasks


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {LEC}))
@pytest.mark.parametrize("load", [0.5, 0.7])
def test_on_unequal_gpus_the_default_is_far_better_than_any_other(policy: str, load: float) -> None:
    assert unequal(policy, load).total.p95 > 5 * unequal(LEC, load).total.p95


def test_weighted_priorities_keep_waits_as_short() -> None:
    assert unequal(LEC, 0.5, "weighted").total.p95 == unequal(LEC, 0.5).total.p95


def test_percentiles_are_times_that_were() -> None:
    assert percentiles(range(1, 101)) == Percentiles(p50=50, p95=95, p99=99)
    assert percentiles([]) == Percentiles(p50=0.0, p95=0.0, p99=0.0)
