"""Which waiting line is served next, on which slot."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.events import Candidate
from schemas.fleet import Learned
from schemas.ids import BackendId
from schemas.subjects import Lane
from services.scheduling import deciding, layout
from services.scheduling.deciding import Question
from services.scheduling.estimates import Estimates
from services.scheduling.fairness import Order, Turns
from services.scheduling.matching import match
from services.scheduling.policies import POLICIES, affine
from services.scheduling.situation import Choice, Gpu, Line
from services.settings import Balancing

LEC = "least_expected_completion"
TWO: Mapping[str, str] = {"x": "x", "y": "y"}


def gpu(name: str = "a", rest_s: float | None = None, **members: Any) -> Gpu:  # Any: whatever a Gpu has
    slots: dict[str, Any] = {"free": (0,)} if rest_s is None else {"rests_s": (rest_s,)}  # Any: as above
    per_unit, warm = members.pop("s", 10.0), members.pop("warm", ("x",))
    learned = Learned(seconds={"x": per_unit, "y": per_unit}, load_s=20.0, warm=warm)
    fixed = {"kind": "image", "models": TWO, "learned": learned, **slots}
    return Gpu(name=BackendId(name), **{**fixed, **members})


def line(
    model: str = "x", priority: str = "normal", number: int = 0, **members: Any
) -> Line:  # Any: as above
    return Line(lane=Lane("image", model, priority, number), **members)


def chosen(
    lines: list[Line], gpus: list[Gpu], policy: str = LEC, turns: Turns | None = None
) -> Choice | None:
    turns = turns or Turns()
    turns.admit_only("image", lines)
    return match(turns, gpus, lambda _: policy, now=0.0, model_load_s=20.0)


def where(lines: list[Line], gpus: list[Gpu], policy: str = LEC) -> str | None:
    found = chosen(lines, gpus, policy)
    return found.backend if found else None


def test_the_policies_are_those_that_a_setting_may_name() -> None:
    assert set(POLICIES) == set(get_args(Balancing))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("lines", "gpus"),
    [
        ([], [gpu()]),
        ([line()], []),
        ([line("z")], [gpu()]),
        ([line()], [gpu(rest_s=3.0)]),
        ([line()], [gpu(kind="speech")]),
        ([line()], [gpu(free=())]),
    ],
)
def test_what_nobody_can_run_now_stays_where_it_is(policy: str, lines: list[Line], gpus: list[Gpu]) -> None:
    assert chosen(lines, gpus, policy) is None


@pytest.mark.parametrize("policy", POLICIES)
def test_higher_priorities_go_first_and_one_not_known_last(policy: str) -> None:
    lines = [line(priority="someday"), line(priority="low"), line(priority="normal")]
    found = chosen(lines, [gpu()], policy)
    assert found is not None
    assert found.lane.priority == "normal"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_line_that_nobody_free_can_run_does_not_hold_up_the_next(policy: str) -> None:
    found = chosen([line("z", "high"), line("x", "low")], [gpu(), gpu("b", 5.0, models={"z": "z"})], policy)
    assert found is not None
    assert found.lane.model == "x"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_choice_names_a_free_slot_and_what_it_charges(policy: str) -> None:
    found = chosen([line(units=2.0)], [gpu(free=(2, 1), rests_s=(4.0,))], policy)
    assert found is not None
    assert (found.slot, found.seconds) == (1, 20.0)
    assert found.decision.reason == deciding.REASONS["only"]
    cold = chosen([line(units=2.0)], [gpu(warm=("y",))], policy)
    assert cold is not None
    assert cold.seconds == 40.0


@pytest.mark.parametrize("policy", POLICIES)
def test_each_kind_has_its_own_policy_and_one_without_work_does_not_hold_up_another(policy: str) -> None:
    speech = Line(lane=Lane("speech", "any", "normal", 0))
    gpus = [gpu(), gpu("s", kind="speech")]
    asked = []

    def policy_of(kind: str) -> str:
        asked.append(kind)
        return policy

    turns = Turns()
    turns.admit({speech.lane: speech})
    found = match(turns, gpus, policy_of, now=0.0, model_load_s=1.0)
    assert found is not None
    assert (found.backend, asked) == ("s", ["speech"])


def test_a_task_goes_where_it_ends_first() -> None:
    assert where([line()], [gpu("a", s=10.0), gpu("b", s=4.0), gpu("c", s=20.0)]) == "b"


def test_a_slot_stays_idle_for_a_warm_one_about_to_be_free() -> None:
    cold = gpu("cold", warm=("y",), keeps=2)
    assert where([line()], [cold, gpu("warm", 19.0)]) is None
    assert where([line()], [cold, gpu("warm", 21.0)]) == "cold"


def test_a_load_costs_as_much_again_where_it_pushes_out_a_model_loaded_nowhere_else() -> None:
    full = gpu("full", warm=("y",))
    assert where([line()], [full, gpu("warm", 39.0)]) is None
    found = chosen([line()], [full, gpu("warm", 41.0)])
    assert found is not None
    assert (found.backend, found.seconds) == ("full", 30.0)


def test_a_model_that_is_loaded_elsewhere_is_missed_less() -> None:
    full = gpu("full", warm=("y",))
    others = [gpu("elsewhere", 100.0, warm=("y",))]
    assert where([line()], [full, gpu("warm", 29.0), *others]) is None
    assert where([line()], [full, gpu("warm", 31.0), *others]) == "full"


def test_a_model_is_loaded_where_there_is_room_rather_than_in_place_of_another() -> None:
    assert where([line()], [gpu("a", warm=("y",)), gpu("b", warm=("y",), keeps=2)]) == "b"


def test_a_slot_stays_idle_for_a_faster_one_about_to_be_free() -> None:
    slow = gpu("slow", s=20.0)
    assert where([line()], [slow, gpu("fast", 4.0, s=10.0)]) is None
    assert where([line()], [slow, gpu("fast", 11.0, s=10.0)]) == "slow"


def test_no_slot_stays_idle_for_what_may_be_chance() -> None:
    slow = gpu("slow", s=11.0)
    assert where([line()], [slow, gpu("alike", 0.5, s=9.0)]) == "slow"
    assert where([line()], [slow, gpu("alike", s=9.0)]) == "alike"


def test_a_cold_model_is_loaded_once_its_warm_gpus_have_more_to_do_than_the_load() -> None:
    gpus = [gpu("cold", warm=("y",), keeps=2), gpu("warm", 5.0)]
    assert where([line(waiting=2)], gpus) is None
    assert where([line(waiting=3)], gpus) == "cold"


def test_what_waits_for_a_warm_slot_lets_others_have_the_cold_one() -> None:
    found = chosen([line("x", "high"), line("y", "low")], [gpu("a", warm=("y",)), gpu("b", 5.0)])
    assert found is not None
    assert (found.backend, found.lane.model) == ("a", "y")


def test_the_lines_before_take_the_busy_slots_first() -> None:
    gpus = [gpu("slow", s=26.0, warm=("x", "y")), gpu("fast", 9.0, warm=("x", "y"))]
    assert where([line("y", "low")], gpus) is None
    assert where([line("x", "high", waiting=9), line("y", "low")], gpus) == "slow"


def test_a_load_that_is_laid_out_serves_the_next_ticket_too() -> None:
    gpus = [gpu("a", 1.0, warm=("y",), keeps=1), gpu("b", s=75.0, warm=("x",))]
    assert where([line("x", waiting=2)], gpus) is None


def test_any_model_runs_on_what_is_loaded() -> None:
    found = chosen([line("any")], [gpu(warm=("y",))])
    assert found is not None
    assert found.seconds == 10.0


def test_equal_gpus_take_turns() -> None:
    assert where([line()], [gpu("a", turn=3), gpu("b", turn=1), gpu("c", turn=2)]) == "b"
    assert where([line()], [gpu("b"), gpu("a")]) == "a"


def test_a_decision_shows_all_that_could_have_run_it_the_best_first() -> None:
    found = chosen([line()], [gpu("a", warm=("y",)), gpu("b"), gpu("c", 45.0)])
    assert found is not None
    assert found.decision.reason == "ends first there"
    assert found.decision.candidates == (
        Candidate(backend=BackendId("b"), score=10.0),
        Candidate(backend=BackendId("a"), score=50.0, cold=True),
        Candidate(backend=BackendId("c"), score=55.0, free=False),
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_decision_shows_no_more_than_eight(policy: str) -> None:
    found = chosen([line()], [gpu(f"g{number}") for number in range(20)], policy)
    assert found is not None
    scores = [candidate.score for candidate in found.decision.candidates]
    assert len(scores) == 8
    assert scores == sorted(scores)
    assert found.decision.candidates[0].backend == found.backend


def test_a_load_that_is_worth_it_is_told() -> None:
    found = chosen([line()], [gpu("a", warm=("y",)), gpu("b", 40.0)])
    assert found is not None
    assert found.decision.reason == deciding.REASONS["soonest_cold"]


def test_work_without_end_on_busy_gpus_keeps_no_free_one_from_what_it_can_run() -> None:
    busy = [gpu(f"b{number}", 1.0, models={"y": "y"}, s=0.01) for number in range(8)]
    lines = [line("y", "high", waiting=10**6), line("x", "low")]
    assert where(lines, [gpu("a", models={"x": "x"}, s=500.0), *busy]) == "a"


class _Counted(Order):
    """Counts the lines that were taken out."""

    taken = 0

    def next(self) -> Line | None:
        self.taken += 1
        return super().next()


@pytest.mark.parametrize("policy", POLICIES)
def test_what_others_wait_for_costs_one_that_can_begin_nothing(policy: str) -> None:
    gpus = [gpu("a", models={"x": "x"}), gpu("b", 1.0, models={"y": "y"})]
    turns = Turns()
    lines = [line("y", "high", number) for number in range(100)] + [line("x", "low")]
    turns.admit_only("image", lines)
    order = _Counted(turns.order("image", 0.0)._ranks, turns.lines("image"))  # noqa: SLF001 - to count
    found = POLICIES[policy](Question(lines, gpus, order, Estimates(gpus, 20.0), 0))
    assert found is not None
    assert (found.lane.model, order.taken) == ("x", 0)


def test_one_that_would_wait_is_asked_again_after_each_that_goes_before_it() -> None:
    gpus = [gpu("cold", warm=("y",), keeps=2), gpu("warm", 5.0)]
    turns, before = Turns(), [line("x", "high", number) for number in range(100)]
    turns.admit_only("image", before)
    order = _Counted(turns.order("image", 0.0)._ranks, turns.lines("image"))  # noqa: SLF001 - to count
    found = POLICIES[LEC](Question(before, gpus, order, Estimates(gpus, 20.0), 0))
    assert found is not None
    assert (found.backend, order.taken) == ("cold", 2)


@given(
    rests=st.lists(st.one_of(st.none(), st.floats(0, 30)), min_size=1, max_size=6),
    units=st.lists(st.floats(0.1, 5), min_size=1, max_size=6),
    waiting=st.integers(1, 50),
)
def test_however_it_is_laid_out_work_that_waits_gets_a_gpu_when_all_are_free(
    rests: list[float | None], units: list[float], waiting: int
) -> None:
    gpus = [gpu(f"g{number}", rest, s=1.0 + number) for number, rest in enumerate(rests)]
    lines = [line("xy"[i % 2], number=i, units=u, waiting=waiting) for i, u in enumerate(units)]
    found = chosen(lines, gpus)
    assert found is None or next(g for g in gpus if g.name == found.backend).free
    assert chosen(lines, [replace(g, free=(0,), rests_s=()) for g in gpus]) is not None


@given(
    models=st.lists(st.sampled_from(["x", "y", "z", "any"]), max_size=4),
    gpus=st.lists(st.tuples(st.sets(st.sampled_from("xyz")), st.booleans()), max_size=4),
    policy=st.sampled_from(sorted(POLICIES)),
)
def test_nothing_begins_where_no_free_gpu_has_a_model_that_is_waited_for(
    models: list[str], gpus: list[tuple[set[str], bool]], policy: str
) -> None:
    made = [
        gpu(f"g{n}", None if free else 5.0, models=dict(zip(owned, owned, strict=True)))
        for n, (owned, free) in enumerate(gpus)
    ]
    turns = Turns()
    found = chosen([line(model, number=n) for n, model in enumerate(models)], made, policy, turns)
    could = any(each.free and turns.waits("image", each.models.keys()) for each in made)
    assert could or found is None


def test_a_call_never_lays_out_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MOST_PLACED", 5)
    gpus = [gpu("cold", warm=("y",), s=100.0), gpu("warm", 1.0, s=0.001)]
    assert where([line(waiting=4)], gpus) is None
    assert where([line(waiting=6)], gpus) == "cold"


@pytest.mark.parametrize(
    ("policy", "gpus", "expected"),
    [
        ("round_robin", [gpu("a", turn=2), gpu("b", turn=1)], "b"),
        (
            "least_outstanding",
            [gpu("a", free=(0,), rests_s=(9.0,)), gpu("b", turn=9)],
            "b",
        ),
        ("least_outstanding", [gpu("a", turn=2), gpu("b", turn=1)], "b"),
        ("weighted", [gpu("a"), gpu("b", weight=2.0)], "b"),
        ("weighted", [gpu("a"), gpu("b", weight=2.0, free=(0,), rests_s=(1.0, 1.0))], "a"),
        ("user_affinity", [gpu("a", free=(0,), rests_s=(9.0,)), gpu("b", turn=9)], "b"),
    ],
)
def test_the_simple_policies(policy: str, gpus: list[Gpu], expected: str) -> None:
    assert where([line()], gpus, policy) == expected


def test_random_draws_all_about_equally_often_and_the_same_each_time() -> None:
    gpus = [gpu(name) for name in "abcd"]

    def drawn() -> list[str]:
        turns = Turns()
        found: list[str] = []
        for _ in range(400):
            choice = chosen([line(waiting=9)], gpus, "random", turns)
            assert choice is not None
            turns.serve(choice.lane, choice.seconds)
            found.append(choice.backend)
        return found

    assert drawn() == drawn()
    assert all(70 < count < 130 for count in Counter(drawn()).values())


def test_a_user_goes_to_the_same_gpu_and_users_spread() -> None:
    gpus = [gpu(name) for name in "abcd"]
    homes = {f"u{number}": affine(f"u{number}", gpus, "x").name for number in range(200)}
    assert all(30 < count < 70 for count in Counter(homes.values()).values())
    without = [g for g in gpus if g.name != "a"]
    moved = {user: affine(user, without, "x").name for user in homes}
    assert all(moved[user] == home for user, home in homes.items() if home != "a")


def test_a_user_is_sent_past_a_gpu_that_is_cold_or_has_more_than_its_share() -> None:
    gpus = [gpu(name, free=(0, 1, 2, 3)) for name in "ab"]
    home = affine("u", gpus, "x")
    other = next(g for g in gpus if g != home)
    cold = replace(home, learned=replace(home.learned, warm=("y",)))
    assert affine("u", [cold, other], "x") == other
    full = replace(home, free=(3,), rests_s=(1.0, 1.0, 1.0))
    assert affine("u", [full, other], "x") == other
    assert affine("u", [full], "x") == full
