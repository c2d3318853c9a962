"""Where work waits, as far as one dispatcher knows."""

from schemas.subjects import Lane
from services.bus.streams import Depth
from services.dispatcher.board import Board

ONE = Lane("image", "any", "normal", 1)
TWO = Lane("image", "any", "normal", 2)


def lanes(board: Board) -> list[Lane]:
    return [waiting.lane for waiting in board.candidates()]


def test_an_empty_board_has_nothing_to_pull() -> None:
    assert lanes(Board()) == []


def test_a_hint_is_worth_one_pull() -> None:
    board = Board()
    board.hint(ONE)

    assert lanes(board) == [ONE]
    assert board.take(ONE)
    assert lanes(board) == []


def test_two_hints_are_worth_two_pulls_at_once() -> None:
    board = Board()
    board.hint(ONE)
    board.hint(ONE)

    assert board.take(ONE)
    assert lanes(board) == [ONE]


def test_an_empty_pull_corrects_a_wrong_hint() -> None:
    board = Board()
    board.refresh({ONE: Depth(5, 0)}, {})
    board.take(ONE)
    board.pulled(ONE, found=False)

    assert lanes(board) == []


def test_a_found_ticket_is_one_less_that_waits() -> None:
    board = Board()
    board.refresh({ONE: Depth(2, 0)}, {})
    for _ in range(2):
        assert lanes(board) == [ONE]
        board.take(ONE)
        board.pulled(ONE, found=True)

    assert lanes(board) == []


def test_tickets_in_other_hands_may_have_come_back() -> None:
    board = Board()
    board.refresh({ONE: Depth(0, 1)}, {})

    assert lanes(board) == [ONE]
    assert not board.take(ONE)
    board.pulled(ONE, found=False)
    assert lanes(board) == []


def test_our_own_tickets_have_not() -> None:
    board = Board()
    board.refresh({ONE: Depth(0, 2)}, {ONE: 2})
    assert lanes(board) == []

    board.refresh({ONE: Depth(0, 2)}, {ONE: 1})
    assert lanes(board) == [ONE]


def test_a_ticket_on_its_way_to_us_is_ours() -> None:
    board = Board()
    board.hint(ONE)
    board.take(ONE)
    board.refresh({ONE: Depth(0, 1)}, {})

    assert lanes(board) == []


def test_turns_say_which_lane_was_served_last() -> None:
    board = Board()
    board.refresh({ONE: Depth(3, 0), TWO: Depth(3, 0)}, {})
    board.take(TWO)
    board.take(ONE)

    turns = {waiting.lane: waiting.turn for waiting in board.candidates()}
    assert turns[TWO] < turns[ONE]
