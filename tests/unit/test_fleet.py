"""What is learned of the fleet's speed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.requests import SpeechRequest
from services.dispatcher.fleet import Speeds, units_of_work
from tests.builders import GPU, picture

SPEECH = SpeechRequest(artifact="recording")


@pytest.mark.parametrize(
    ("members", "units"),
    [
        ({"width": 1000, "height": 1000, "steps": 20}, 20),
        ({"width": 2000, "height": 1000, "steps": 20}, 40),
        ({"width": 1000, "height": 1000, "steps": 10, "n": 4}, 40),
    ],
)
def test_a_picture_s_work_is_its_area_times_its_steps(members: dict[str, int], units: float) -> None:
    assert units_of_work(picture(**members)) == units


@pytest.mark.parametrize(("size", "units"), [(0, 1), (320_000, 1), (640_000, 2), (3_200_000, 10)])
def test_a_recording_s_work_is_its_length_and_never_nothing(size: int, units: float) -> None:
    assert units_of_work(SPEECH, size) == units


def test_nothing_is_expected_of_what_was_never_seen() -> None:
    assert Speeds().expected_s(GPU, "any", 10) is None


def test_the_first_time_is_believed_and_later_ones_move_it() -> None:
    once = Speeds().learned(GPU, "any", 10, 20)
    assert once.expected_s(GPU, "any", 5) == 10

    again = once.learned(GPU, "any", 10, 40)
    assert again.expected_s(GPU, "any", 10) == pytest.approx(26)
    assert once.expected_s(GPU, "any", 10) == 20


def test_each_backend_and_model_is_learned_apart() -> None:
    learned = Speeds().learned(GPU, "a", 1, 1).learned(GPU, "b", 1, 2)

    assert (learned.expected_s(GPU, "a", 1), learned.expected_s(GPU, "b", 1)) == (1, 2)


@given(st.lists(st.floats(0.001, 1e6), min_size=1), st.floats(0.001, 1e6))
def test_what_is_expected_lies_within_what_was_seen(times: list[float], units: float) -> None:
    speeds = Speeds()
    for took_s in times:
        speeds = speeds.learned(GPU, "any", units, took_s)
    expected = speeds.expected_s(GPU, "any", units)

    assert expected is not None
    assert min(times) * 0.999 <= expected <= max(times) * 1.001
