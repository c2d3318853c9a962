"""Tickets that are kept until their tenants have fewer tasks running."""

from collections.abc import Callable

from schemas.subjects import Lane
from services.bus.tickets import Ticket
from services.dispatcher.capped import KEPT_S, MOST_KEPT, Capped
from tests.builders import LANE, ticket


def room(**free: int) -> Callable[[str], int]:
    return lambda tenant: free.get(tenant, 0)


ONE, TWO, THREE = (ticket(number) for number in (1, 2, 3))


def kept(tenant: str, *tickets: Ticket, now: float = 0) -> Capped:
    capped = Capped()
    for each in tickets:
        assert capped.put(each, tenant, now)
    return capped


def test_as_many_leave_as_there_is_room_for_those_first_that_were_submitted_first() -> None:
    capped = kept("ann", TWO, THREE, ONE)

    assert capped.leave(0, room()) == []
    assert capped.leave(0, room(ann=-1)) == []
    assert capped.leave(0, room(ann=2)) == [ONE, TWO]
    assert capped.leave(0, room(ann=2)) == [THREE]
    assert not capped.lanes


def test_the_room_of_one_tenant_is_no_other_s() -> None:
    capped = kept("ann", ONE)
    capped.put(TWO, "bob", 0)

    assert capped.leave(0, room(bob=5)) == [TWO]
    assert capped.lanes == {LANE: 1}
    assert capped.leave(0, room(ann=1)) == [ONE]


def test_whose_time_is_over_leaves_whatever_room_there_is() -> None:
    capped = kept("ann", TWO, now=0)
    capped.put(ONE, "ann", 1)

    assert capped.leave(KEPT_S, room()) == [TWO]
    assert capped.leave(KEPT_S + 1, room()) == [ONE]


def test_they_are_counted_by_lane_and_all_of_them_can_leave() -> None:
    other = Lane("image", "any", "low", 1)
    capped = kept("ann", ONE, TWO, ticket(4, other))

    assert capped.lanes == {LANE: 2, other: 1}
    assert len(capped.clear()) == 3
    assert not capped.lanes


def test_of_one_tenant_so_many_are_kept_and_no_more() -> None:
    capped = kept("ann", *(ticket(number) for number in range(MOST_KEPT)))

    assert not capped.put(ticket(MOST_KEPT), "ann", 0)
    assert capped.put(ticket(MOST_KEPT), "bob", 0)
