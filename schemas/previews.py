"""Previews: how a picture looks that is still being drawn.

The one rule: the bytes alone say what they are. What is no JPEG, PNG or WebP, or is too large, is none.
"""

import hashlib
from typing import Final

MAX_BYTES: Final = 512 * 1024
ATTEMPT: Final = "Taskfold-Attempt"
"""The header that says which attempt a preview is of."""

_NAME_DIGITS: Final = 16


def media_type(image: bytes) -> str | None:
    """Say what kind of picture it is; None for what is no preview."""
    if len(image) > MAX_BYTES:
        return None
    if image.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    return "image/webp" if image[:4] == b"RIFF" and image[8:12] == b"WEBP" else None


def name(image: bytes) -> str:
    """Name a preview by its content, so that another one has another name."""
    return hashlib.sha256(image).hexdigest()[:_NAME_DIGITS]
