"""What is said of GPUs by their own books."""

import pytest

from benchmarks.scaling import load


def test_gpus_that_never_rest_are_linear() -> None:
    books = [[(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)], [(1.0, 3.0), (3.0, 5.0), (5.0, 7.0)]]

    assert load(books).share == pytest.approx(100)
    assert load(books).tasks_a_second == pytest.approx(1)


def test_only_the_time_in_which_tasks_wait_for_all_counts() -> None:
    """One GPU begins late and the other has nothing left in the end: neither is its fault."""
    books = [[(0.0, 1.0), (2.0, 3.0)], [(1.0, 2.0), (3.0, 4.0)]]

    assert load(books).share == pytest.approx(50)


def test_gaps_are_told_in_milliseconds() -> None:
    assert load([[(0.0, 1.0), (1.01, 2.0), (2.03, 3.0)]]).gaps_ms == pytest.approx([10, 30])
