"""What is a preview, and how it is told from another."""

import pytest

from schemas import previews

JPEG = b"\xff\xd8\xff\xe0 and so on"
PNG = b"\x89PNG\r\n\x1a\n and so on"
WEBP = b"RIFF\x24\0\0\0WEBPVP8 "


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (JPEG, "image/jpeg"),
        (PNG, "image/png"),
        (WEBP, "image/webp"),
        (b"", None),
        (b"<svg onload='alert()'/>", None),
        (b"RIFF\x24\0\0\0WAVEfmt ", None),
        (b"GIF89a", None),
        (JPEG.ljust(previews.MAX_BYTES, b"."), "image/jpeg"),
        (JPEG.ljust(previews.MAX_BYTES + 1, b"."), None),
    ],
)
def test_the_bytes_alone_say_what_a_preview_is(image: bytes, expected: str | None) -> None:
    assert previews.media_type(image) == expected


def test_another_preview_has_another_name() -> None:
    assert previews.name(JPEG) == previews.name(bytes(JPEG)) != previews.name(PNG)
    assert previews.name(PNG).isalnum()
