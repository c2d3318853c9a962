"""How long a slot is busy still: as expected, or, once it is late, in proportion to how late it is."""

import pytest

from services.scheduling.rest import still_s


@pytest.mark.parametrize("left_s", [0.1, 0.4, 8.0])
def test_a_run_takes_as_long_as_is_left_of_it_however_short_that_is(left_s: float) -> None:
    assert still_s(left_s) == left_s


def test_a_late_run_is_given_half_as_long_again_as_it_is_late() -> None:
    assert still_s(-4.0) == 2.0


@pytest.mark.parametrize("left_s", [0.01, 0.0, -0.01])
def test_a_run_about_to_end_is_no_free_slot_yet(left_s: float) -> None:
    assert 0.0 < still_s(left_s) < 0.1
