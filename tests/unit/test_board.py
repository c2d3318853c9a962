"""Where work waits, as far as one dispatcher knows."""

from schemas.subjects import Lane
from services.bus.streams import Depth
from services.dispatcher.board import PATIENT_S, Board
from services.scheduling.situation import Line

ONE = Lane("image", "any", "normal", 1)
TWO = Lane("image", "any", "normal", 2)


def lines(board: Board, now: float = 0) -> list[Line]:
    """Give the lanes that are worth a pull, of all that are known."""
    board.review()
    return [line for line in changes(board, now).values() if line]


def changes(board: Board, now: float = 0) -> dict[Lane, Line | None]:
    return board.changes(now, lambda _: False)


def lanes(board: Board, now: float = 0) -> list[Lane]:
    return [line.lane for line in lines(board, now)]


def line(board: Board, now: float) -> Line:
    (found,) = lines(board, now)
    return found


def units(board: Board) -> list[float]:
    return [found.units for found in sorted(lines(board), key=lambda found: found.lane)]


def test_an_empty_board_has_nothing_to_pull() -> None:
    assert lanes(Board()) == []


def test_a_hint_is_worth_one_pull() -> None:
    board = Board()
    board.hint(ONE, 0)

    assert lanes(board) == [ONE]
    assert board.take(ONE, 0)
    assert lanes(board) == []


def test_two_hints_are_worth_two_pulls_at_once() -> None:
    board = Board()
    board.hint(ONE, 0)
    board.hint(ONE, 0)

    assert board.take(ONE, 0)
    assert lanes(board) == [ONE]


def test_a_pull_waits_a_moment_for_what_is_expected_and_not_for_what_may_have_come_back() -> None:
    board = Board()
    board.hint(ONE, 0)
    board.refresh({TWO: Depth(0, 1)}, {}, 0)

    assert board.take(ONE, 0) == PATIENT_S
    assert board.take(TWO, 0) == 0


def test_where_a_ticket_may_be_back_one_pull_looks_and_does_not_wait() -> None:
    board = Board()
    board.suspect(ONE, 0)

    assert lanes(board) == [ONE]
    assert not board.take(ONE, 0)
    board.pulled(ONE, 0, found=False)
    assert lanes(board) == []


def test_an_empty_pull_corrects_a_wrong_hint() -> None:
    board = Board()
    board.refresh({ONE: Depth(5, 0)}, {}, 0)
    board.take(ONE, 0)
    board.pulled(ONE, 0, found=False)

    assert lanes(board) == []


def test_a_found_ticket_is_one_less_that_waits() -> None:
    board = Board()
    board.refresh({ONE: Depth(2, 0)}, {}, 0)
    for _ in range(2):
        assert lanes(board) == [ONE]
        board.take(ONE, 0)
        board.pulled(ONE, 0, found=True)

    assert lanes(board) == []


def test_tickets_in_other_hands_may_have_come_back() -> None:
    board = Board()
    board.refresh({ONE: Depth(0, 1)}, {}, 0)

    assert lanes(board) == [ONE]
    assert not board.take(ONE, 0)
    board.pulled(ONE, 0, found=False)
    assert lanes(board) == []


def test_where_one_has_come_back_another_may_have() -> None:
    board = Board()
    board.refresh({ONE: Depth(0, 2)}, {}, 0)
    board.take(ONE, 0)
    board.pulled(ONE, 0, found=True)
    assert lanes(board) == [ONE]

    board.take(ONE, 0)
    board.pulled(ONE, 0, found=False)
    assert lanes(board) == []


def test_our_own_tickets_have_not() -> None:
    board = Board()
    board.refresh({ONE: Depth(0, 2)}, {ONE: 2}, 0)
    assert lanes(board) == []

    board.refresh({ONE: Depth(0, 2)}, {ONE: 1}, 0)
    assert lanes(board) == [ONE]


def test_a_ticket_on_its_way_to_us_is_ours() -> None:
    board = Board()
    board.hint(ONE, 0)
    board.take(ONE, 0)
    board.refresh({ONE: Depth(0, 1)}, {}, 0)

    assert lanes(board) == []


def test_a_line_says_how_many_wait_that_nobody_is_about_to_pull() -> None:
    board = Board()
    board.refresh({ONE: Depth(3, 0)}, {}, 0)
    board.take(ONE, 0)

    assert line(board, 0).waiting == 2


def test_a_lane_has_waited_since_it_got_work_or_was_served_last() -> None:
    board = Board()
    board.hint(ONE, 10)
    assert line(board, 15).since == 10

    board.hint(ONE, 16)
    board.take(ONE, 20)
    board.pulled(ONE, 21, found=True)
    assert line(board, 24).since == 20


def test_a_lane_that_another_dispatcher_serves_is_served() -> None:
    board = Board()
    board.refresh({ONE: Depth(3, 0, 7)}, {}, 0)
    board.refresh({ONE: Depth(3, 0, 7)}, {}, 30)
    assert line(board, 30).since == 0

    board.refresh({ONE: Depth(3, 0, 8)}, {}, 40)
    assert line(board, 41).since == 40


def test_a_ticket_s_work_is_taken_for_that_of_its_lane_and_else_of_its_kind() -> None:
    board = Board()
    board.hint(ONE, 0)
    board.hint(TWO, 0)
    assert units(board) == [1, 1]

    board.measured(ONE, 10, 0)
    board.measured(ONE, 20, 0)
    assert units(board) == [12, 12]

    board.measured(TWO, 2, 0)
    assert units(board) == [12, 2]


def test_a_lane_whose_tickets_may_not_run_is_left_alone_ever_longer() -> None:
    board, now, pauses = Board(), 0.0, []
    board.refresh({ONE: Depth(9, 0)}, {}, now)
    board.rest(ONE, now)
    assert lines(board, now)  # the next ticket may be one that runs
    for _ in range(5):
        board.rest(ONE, now)
        woken = next(later / 4 for later in range(100) if lines(board, now + later / 4))
        pauses.append(woken)
        now += woken
    assert pauses == [0.25, 0.5, 1, 2, 2]

    board.ran(ONE, now)
    board.rest(ONE, now)
    assert lines(board, now)
    board.rest(ONE, now)
    assert not lines(board, now + 0.2)
    assert lines(board, now + 0.25)


def test_what_has_not_changed_is_not_told_again() -> None:
    board = Board()
    board.hint(ONE, 0)
    board.hint(TWO, 0)
    assert changes(board).keys() == {ONE, TWO}
    assert changes(board) == {}

    board.take(ONE, 1)
    assert changes(board) == {ONE: None}
    board.pulled(ONE, 2, found=False)
    board.hint(ONE, 3)
    assert changes(board, 3) == {ONE: Line(lane=ONE, since=3)}


def test_a_lane_that_has_rested_long_enough_has_changed() -> None:
    board = Board()
    board.hint(ONE, 0)
    board.rest(ONE, 0)
    board.rest(ONE, 0)
    assert changes(board) == {ONE: None}
    assert changes(board, 0.2) == {}
    assert changes(board, 0.25).keys() == {ONE}


def test_a_paused_lane_is_worth_no_pull_and_once_resumed_it_is() -> None:
    board = Board()
    board.hint(ONE, 0)
    board.hint(TWO, 0)
    found = board.changes(0, lambda lane: lane == ONE)
    assert (found[ONE], found[TWO]) == (None, Line(lane=TWO))
    assert changes(board) == {}

    board.review()
    assert None not in changes(board).values()


def test_what_is_heard_while_the_server_is_asked_is_not_forgotten() -> None:
    board = Board()
    board.ask()
    board.hint(ONE, 0)
    board.hint(TWO, 0)
    board.refresh({ONE: Depth(0, 0), TWO: Depth(1, 0)}, {}, 0)
    assert [found.waiting for found in lines(board)] == [1, 1]

    board.ask()
    board.refresh({ONE: Depth(0, 0), TWO: Depth(0, 0)}, {}, 0)
    assert lanes(board) == []


def test_what_was_heard_and_pulled_meanwhile_does_not_wait_any_more() -> None:
    board = Board()
    board.ask()
    board.hint(ONE, 0)
    board.take(ONE, 0)
    board.pulled(ONE, 0, found=True)
    board.refresh({ONE: Depth(0, 0)}, {}, 0)
    assert lanes(board) == []
