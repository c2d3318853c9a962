"""Tickets that are parked until the backend that their task names has a slot for them."""

from typing import Any

import pytest

from schemas.ids import BackendId
from schemas.subjects import Lane
from services.bus.tickets import Ticket
from services.dispatcher.parking import MOST_PARKED, PARKED_S, Parking
from services.scheduling.fairness import Turns
from services.scheduling.matching import match
from services.scheduling.policies import POLICIES
from services.scheduling.situation import Choice, Gpu, Line
from tests.builders import LANE, at, image, ticket

HERE, NAMED = BackendId("image-1"), BackendId("image-2")


def park(parking: Parking, ticket: Ticket, now: float = 0, *, backend: BackendId = NAMED) -> bool:
    return parking.put(ticket, image(backend=backend), now, at(now))


def parked(*tickets: Ticket) -> Parking:
    parking = Parking()
    assert all(park(parking, ticket) for ticket in tickets)
    return parking


def changes(parking: Parking, *paused: Lane) -> dict[Lane, Line | None]:
    return parking.changes(lambda lane: lane in paused)


def gpu(name: BackendId, **members: Any) -> Gpu:  # Any: whatever a Gpu may have
    return Gpu(name=name, **{"kind": "image", "models": {"qwen": "Qwen"}, "free": (0,), **members})


BOTH = [gpu(HERE), gpu(NAMED)]


def choose(parking: Parking, gpus: list[Gpu], policy: str = "least_expected_completion") -> Choice | None:
    turns = Turns()
    turns.admit(changes(parking))
    return match(turns, parking.with_models(gpus), lambda _: policy, now=0, model_load_s=10)


@pytest.mark.parametrize("model", ["any", "qwen"])
@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_parked_goes_to_the_backend_that_it_names_once_that_is_free(
    model: str, policy: str
) -> None:
    one = ticket(lane=Lane("image", model, "normal", 0))

    assert choose(parked(one), [gpu(HERE), gpu(NAMED, free=(), rests_s=(9.0,))], policy) is None
    parking = parked(one)
    found = choose(parking, BOTH, policy)
    assert found is not None
    assert found.backend == NAMED
    assert parking.take(found.lane) is one


def test_gpus_are_as_they_were_where_nothing_is_parked_for_them() -> None:
    assert Parking().with_models(BOTH) == BOTH
    first, second = parked(ticket()).with_models(BOTH)
    assert first == BOTH[0]
    assert second.models.keys() > BOTH[1].models.keys()
    assert set(second.models.values()) == {"Qwen"}


def test_who_was_submitted_first_is_the_first_to_go() -> None:
    one, two, three = (ticket(number) for number in range(3))
    parking = parked(two, one)
    [(key, line)] = changes(parking).items()
    assert line == Line(lane=key, waiting=2, units=line.units if line else 0)
    park(parking, three)

    assert [parking.take(key) for _ in range(4)] == [one, two, three, None]
    assert changes(parking) == {key: None}


def test_a_lane_of_the_board_is_no_lot() -> None:
    assert parked(ticket()).take(LANE) is None


def test_how_long_it_waits_counts_from_when_it_was_submitted() -> None:
    parking = Parking()
    park(parking, ticket(), now=100)  # it was submitted at 0

    [line] = changes(parking).values()
    assert line is not None
    assert line.since == 0


def test_what_has_not_changed_is_not_told_again() -> None:
    parking = parked(ticket())
    assert len(changes(parking)) == 1
    assert changes(parking) == {}
    parking.review()
    assert len(changes(parking)) == 1


def test_what_is_parked_keeps_to_the_pause_of_its_queue() -> None:
    parking = parked(ticket())
    assert list(changes(parking, LANE).values()) == [None]

    parking.review()
    assert list(changes(parking).values()) != [None]


def test_it_is_counted_by_the_lane_that_it_came_from() -> None:
    other = Lane("image", "any", "low", 1)
    parking = parked(ticket(1), ticket(2), ticket(3, other))
    assert parking.lanes == {LANE: 2, other: 1}


def test_who_has_waited_for_long_enough_leaves() -> None:
    parking = Parking()
    early, late = ticket(1), ticket(2)
    park(parking, early, now=0)
    park(parking, late, now=1)

    assert parking.leave(PARKED_S - 0.1, BOTH) == []
    assert parking.leave(PARKED_S, BOTH) == [early]
    assert parking.leave(PARKED_S + 1, BOTH) == [late]
    assert not parking.lanes


@pytest.mark.parametrize("gpus", [[gpu(HERE)], [gpu(HERE), gpu(NAMED, models={"flux": "Flux"})]])
def test_who_would_wait_in_vain_leaves_at_once(gpus: list[Gpu]) -> None:
    lane = Lane("image", "qwen", "normal", 0)
    one, other = ticket(1, lane), ticket(2, lane)
    parking = parked(one)
    park(parking, other, backend=HERE)

    assert parking.leave(0, gpus) == [one]
    assert parking.clear() == [other]


def test_a_backend_has_so_many_parked_and_no_more() -> None:
    parking = parked(*(ticket(number) for number in range(MOST_PARKED - 1)))
    assert park(parking, ticket(0, Lane("image", "any", "high", 1)))
    assert not park(parking, ticket(MOST_PARKED))
    assert park(parking, ticket(MOST_PARKED), backend=HERE)
