"""Which bytes pass for a picture."""

import base64
import io
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from schemas.events import ErrorClass
from services.dispatcher.backends.base import Failed, Finished, Output
from services.dispatcher.backends.images import MAX_IMAGE_BYTES, checked, decoded, finished


def drawn(image_format: str, size: tuple[int, int] = (48, 32)) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, image_format)
    return file.getvalue()


PNG = drawn("PNG")


@pytest.mark.parametrize(
    ("image_format", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")]
)
def test_a_picture_passes_with_its_true_size(image_format: str, media_type: str) -> None:
    data = drawn(image_format)
    assert checked(data, 7) == Output(data=data, media_type=media_type, width=48, height=32, seed=7)


@pytest.mark.parametrize("image_format", ["BMP", "GIF", "TIFF", "ICO"])
def test_other_formats_do_not_pass(image_format: str) -> None:
    assert isinstance(checked(drawn(image_format)), Failed)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_half_a_picture_does_not_pass(image_format: str, share: float) -> None:
    data = drawn(image_format, (256, 256))
    assert isinstance(checked(data[: int(len(data) * share)]), Failed)


def test_what_is_larger_than_allowed_does_not_pass() -> None:
    assert isinstance(checked(PNG + bytes(MAX_IMAGE_BYTES)), Failed)


@pytest.mark.parametrize("side", [8193, 20_000, 60_000])
def test_a_picture_of_too_many_pixels_is_not_unpacked(side: int) -> None:
    header = side.to_bytes(4) * 2 + b"\x08\x00\x00\x00\x00"
    bomb = PNG[:8]
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")):
        bomb += len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4)
    ended = checked(bomb)
    assert isinstance(ended, Failed)
    assert ended.error.code == "bad_image"


@pytest.mark.parametrize("text", ["####", "abc", "é", "YWJj\n\n!"])
def test_what_is_not_base64_does_not_pass(text: str) -> None:
    found = decoded(text)
    assert isinstance(found, Failed)
    assert (found.error.error_class, found.error.code) == (ErrorClass.TRANSIENT, "bad_image")


def test_a_data_url_is_read_too() -> None:
    assert decoded("data:image/png;base64," + base64.b64encode(b"abc").decode()) == b"abc"


def test_pictures_of_one_attempt_have_the_seeds_that_follow() -> None:
    ended = finished([base64.b64encode(PNG).decode(), PNG], 41)
    assert isinstance(ended, Finished)
    assert [output.seed for output in ended.outputs] == [41, 42]


def test_one_bad_picture_spoils_the_attempt() -> None:
    assert isinstance(finished([PNG, b"no"], 1), Failed)
    assert isinstance(finished([], 1), Failed)


@settings(max_examples=300)
@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.data())
def test_no_damage_makes_the_check_raise(image_format: str, data: st.DataObject) -> None:
    damaged = bytearray(drawn(image_format))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(checked(bytes(damaged)), Output | Failed)
