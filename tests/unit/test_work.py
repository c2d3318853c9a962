"""How much work a task is."""

import pytest

from schemas.work import units
from tests.builders import image, picture, speech


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"width": 1000, "height": 1000, "steps": 20}, 20),
        ({"width": 2000, "height": 1000, "steps": 20}, 40),
        ({"width": 1000, "height": 1000, "steps": 10, "n": 4}, 40),
    ],
)
def test_a_picture_s_work_is_its_area_times_its_steps(members: dict[str, int], expected: float) -> None:
    assert units(image(request=picture(**members))) == expected


@pytest.mark.parametrize(("size", "expected"), [(0, 1), (320_000, 1), (640_000, 2), (3_200_000, 10)])
def test_a_recording_s_work_is_its_length_and_never_nothing(size: int, expected: float) -> None:
    assert units(speech(audio_bytes=size)) == expected
