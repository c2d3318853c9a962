"""From what a server sends as a picture to a checked Output. Pure, and slow: callers run it in a thread.

The one rule: nothing is passed on that Pillow has not read to its end, by its checksums where the format
has them and by decoding it where not; the size recorded is the true one.
"""

import binascii
import io
from collections.abc import Sequence
from typing import Final

import pybase64
from PIL import Image

from schemas.events import ErrorClass
from services.dispatcher.backends.base import Failed, Finished, Output, failed

MAX_IMAGE_BYTES: Final = 48 * 1024 * 1024
MAX_PIXELS: Final = 8192 * 8192

_CHECKSUMMED: Final = "PNG"
_MEDIA_TYPES: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def finished(pictures: Sequence[str | bytes], seed: int | None) -> Finished | Failed:
    """Check all pictures of an attempt, given as base64 or as bytes; number i was drawn from seed + i."""
    if not pictures:
        return bad_image("the answer holds no image")
    outputs: list[Output] = []
    for number, picture in enumerate(pictures):
        data = decoded(picture) if isinstance(picture, str) else picture
        found = data if isinstance(data, Failed) else checked(data, None if seed is None else seed + number)
        if isinstance(found, Failed):
            return found
        outputs.append(found)
    return Finished(outputs=tuple(outputs))


def decoded(text: str) -> bytes | Failed:
    """Decode base64; a data: prefix, as some servers send, is skipped."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:  # not by Python's own, which takes a hundred times as long, 8 ms for a picture of 1024²
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        return bad_image(f"not base64: {error}")


def checked(data: bytes, seed: int | None = None) -> Output | Failed:
    """Decode the picture to learn that it can be, and how large it is."""
    if len(data) > MAX_IMAGE_BYTES:
        return bad_image(f"larger than {MAX_IMAGE_BYTES} bytes")
    try:
        with Image.open(io.BytesIO(data), formats=tuple(_MEDIA_TYPES)) as image:
            if image.width * image.height > MAX_PIXELS:
                return bad_image(f"{image.width}x{image.height} is more than {MAX_PIXELS} pixels")
            size, media_type = image.size, _MEDIA_TYPES[image.format or ""]
            if image.format == _CHECKSUMMED:
                image.verify()  # a tenth of the time that decoding takes, and a GPU waits for it
            else:
                image.load()
            return Output(data=data, media_type=media_type, width=size[0], height=size[1], seed=seed)
    except Exception as error:  # noqa: BLE001 - a decoder fed by strangers raises what it likes
        return bad_image(f"cannot be decoded: {error}")


def bad_image(reason: str) -> Failed:
    return failed(ErrorClass.TRANSIENT, "bad_image", reason)
