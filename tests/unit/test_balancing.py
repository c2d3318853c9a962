"""Which free slot serves which lane next."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import BackendId
from schemas.requests import Kind
from schemas.subjects import Lane
from services.dispatcher.policies.balancing import (
    POLICIES,
    FreeSlot,
    Pair,
    Policy,
    WaitingLane,
    can_run,
    least_outstanding,
    match,
    round_robin,
)


def slot(backend: str = "a", **members: Any) -> FreeSlot:  # Any: whatever a slot may have
    fixed = {"number": 0, "kind": Kind.IMAGE, "models": frozenset(), "busy": 0, "slots": 1, "turn": 0}
    return FreeSlot(backend=BackendId(backend), **{**fixed, **members})


def waiting(priority: str = "normal", number: int = 0, *, turn: int = 0, model: str = "any") -> WaitingLane:
    return WaitingLane(Lane("image", model, priority, number), turn)


def served(lanes: list[WaitingLane], slots: list[FreeSlot], policy: Policy = round_robin) -> Pair | None:
    return match(lanes, slots, policy)


@pytest.mark.parametrize(
    ("lanes", "slots"),
    [
        ([], [slot()]),
        ([waiting()], []),
        ([waiting(model="qwen")], [slot()]),
        ([WaitingLane(Lane("speech", "any", "normal", 0), 0)], [slot()]),
    ],
)
def test_what_nobody_can_run_stays_where_it_is(lanes: list[WaitingLane], slots: list[FreeSlot]) -> None:
    assert served(lanes, slots) is None


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (waiting("high", turn=9), waiting("normal")),
        (waiting("normal", turn=9), waiting("low")),
        (waiting("low", turn=9), waiting("someday")),
        (waiting(number=1, turn=1), waiting(number=0, turn=2)),
        (waiting(number=0, turn=1), waiting(number=1, turn=1)),
    ],
)
def test_priority_comes_first_then_turns(first: WaitingLane, later: WaitingLane) -> None:
    for lanes in ([first, later], [later, first]):
        pair = served(lanes, [slot()])
        assert pair is not None
        assert pair.lane == first.lane


def test_a_lane_that_no_free_slot_can_run_holds_nobody_up() -> None:
    pair = served([waiting("high", model="qwen"), waiting("low")], [slot()])

    assert pair == Pair(slot(), waiting("low").lane)


def test_a_model_is_served_by_the_slots_that_have_it() -> None:
    able = slot("b", models=frozenset({"qwen"}), turn=9)

    assert served([waiting(model="qwen")], [slot("a"), able]) == Pair(able, waiting(model="qwen").lane)


@pytest.mark.parametrize(
    ("model", "models", "able"),
    [
        ("any", set(), True),
        ("any", {"x"}, True),
        ("x", {"x"}, True),
        ("x", {"y"}, False),
        ("x", set(), False),
    ],
)
def test_a_slot_runs_its_own_models_and_any(model: str, models: set[str], able: bool) -> None:  # noqa: FBT001 - a column of the table
    assert can_run(slot(models=frozenset(models)), Lane("image", model, "normal", 0)) is able


def test_round_robin_takes_who_has_waited_longest() -> None:
    assert round_robin([slot("a", turn=3), slot("b", turn=1), slot("c", turn=2)]).backend == "b"


def test_round_robin_gives_every_backend_its_turn() -> None:
    turns = {"a": 0, "b": 0, "c": 0}
    order = []
    for turn in range(1, 7):
        chosen = round_robin([slot(name, turn=last) for name, last in turns.items()])
        turns[chosen.backend] = turn
        order.append(chosen.backend)

    assert order == ["a", "b", "c", "a", "b", "c"]


def test_least_outstanding_takes_the_emptiest_by_share() -> None:
    busy, emptier = slot("a", busy=1, slots=2), slot("b", busy=3, slots=8)

    assert least_outstanding([busy, emptier]) == emptier


def test_least_outstanding_takes_turns_among_equals() -> None:
    assert least_outstanding([slot("a", turn=2), slot("b", turn=1)]).backend == "b"


SLOTS = st.builds(
    FreeSlot,
    backend=st.sampled_from(["a", "b", "c"]).map(BackendId),
    number=st.integers(0, 3),
    kind=st.sampled_from(Kind),
    models=st.frozensets(st.sampled_from(["x", "y"])),
    busy=st.integers(0, 3),
    slots=st.just(4),
    turn=st.integers(0, 9),
)
LANES = st.builds(
    WaitingLane,
    st.builds(
        Lane,
        st.sampled_from(["image", "speech"]),
        st.sampled_from(["any", "x", "y"]),
        st.sampled_from(["high", "normal", "low"]),
        st.integers(0, 1),
    ),
    st.integers(0, 9),
)


@given(st.lists(LANES), st.lists(SLOTS), st.sampled_from(sorted(POLICIES)))
def test_a_pair_fits_and_there_is_none_only_where_none_fits(
    lanes: list[WaitingLane], slots: list[FreeSlot], policy: str
) -> None:
    pair = match(lanes, slots, POLICIES[policy])
    fitting = [(s, w.lane) for w in lanes for s in slots if can_run(s, w.lane)]

    assert (pair is None) == (not fitting)
    assert pair is None or (pair.slot, pair.lane) in fitting
