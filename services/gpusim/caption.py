"""Text on a picture, in a panel that makes it legible on any background.

Pure. The largest size at which the whole text fits is taken; a text that fits at none is cut, and
ends with an ellipsis.
"""

import functools
import math
import unicodedata
from itertools import takewhile

import msgspec
from PIL import Image, ImageDraw, ImageFont

ELLIPSIS = "…"

_PANEL = (13, 15, 23)
_INK = (255, 255, 255)
_FAINT = (170, 176, 194)
_STRENGTH = 0.84
"""How opaque the panel is."""
_SHARE = 0.5
"""The most of the picture's height that the panel takes, unless the picture is tiny."""
_TINY = 200
_SMALLEST = 9
_READ = 2000
"""Characters beyond these never fit; they are not measured."""
_PLAIN = str.maketrans(
    {
        "\N{EM DASH}": "-",
        "\N{EN DASH}": "-",
        "\N{HYPHEN}": "-",
        "\N{MINUS SIGN}": "-",
        "\N{MULTIPLICATION SIGN}": "x",
    }
)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Layout(msgspec.Struct, frozen=True):
    """A text broken into lines at a size of the font, in pixels."""

    size: int
    lines: tuple[str, ...]


def write(image: Image.Image, text: str, details: str) -> None:
    """Write the text on the lower part of the image, and the details small beneath it."""
    width, height = image.size
    margin = max(2, min(width, height) // 24)
    small = min(width, height) // 36
    details = plain(details) if small >= _SMALLEST else ""
    footer = round(small * 1.9) if details else 0
    share = 1.0 if height <= _TINY else _SHARE
    room = (width - 2 * margin, int(height * share) - 2 * margin - footer)
    layout = fit(plain(text), room)
    if not layout.lines:
        return
    top = height - 2 * margin - footer - len(layout.lines) * _line_height(layout.size)
    _darken(image, max(0, top))
    draw = ImageDraw.Draw(image)
    y = max(0, top) + margin
    for line in layout.lines:
        draw.text((margin, y), line, fill=_INK, font=_font(layout.size))
        y += _line_height(layout.size)
    if details:
        line = _cut(details, small, width - 2 * margin)
        draw.text((margin, height - margin - small * 1.1), line, fill=_FAINT, font=_font(small))


def plain(text: str) -> str:
    """Reduce the text to one line of what the built-in font can draw, accents dropped."""
    spread = unicodedata.normalize("NFKD", text[:_READ].translate(_PLAIN))
    kept = (letter for letter in spread if not unicodedata.combining(letter))
    cut = ELLIPSIS if len(text) > _READ else ""
    return " ".join("".join(kept).split()) + cut


def fit(text: str, room: tuple[int, int]) -> Layout:
    """Break the text into lines for a room of (width, height) pixels."""
    width, height = room
    crowded = int(1.6 * math.sqrt(max(0, width * height) / max(1, len(text))))
    size = max(_SMALLEST, min(crowded, max(min(room) // 6, width // 15)))
    while True:
        lines = _wrap(text, size, width)
        allowed = max(1, height // _line_height(size))
        if len(lines) <= allowed:
            return Layout(size, tuple(lines))
        if size <= _SMALLEST or size <= width // 28:
            last = _cut(lines[allowed - 1] + ELLIPSIS, size, width)
            return Layout(size, (*lines[: allowed - 1], last))
        size = max(_SMALLEST, size * 9 // 10)


def _wrap(text: str, size: int, width: int) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if _length(longer, size) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *whole, line = _break(word, size, width)
        lines.extend(whole)
    return [*lines, line] if line else lines


def _break(word: str, size: int, width: int) -> list[str]:
    """Break a word that may be wider than a line into parts that are not."""
    parts: list[str] = []
    while len(word) > 1 and _length(word, size) > width:
        head = _head(word, size, width)
        parts.append(head)
        word = word[len(head) :]
    return [*parts, word]


def _head(text: str, size: int, width: int) -> str:
    """Take as much of the text as is not wider, and one letter at least."""
    ends = takewhile(lambda end: _length(text[:end], size) <= width, range(2, len(text) + 1))
    return text[: max(ends, default=1)]


def _cut(text: str, size: int, width: int) -> str:
    """Shorten a line that is too wide; an ellipsis shows it."""
    if _length(text, size) <= width:
        return text
    kept = text.removesuffix(ELLIPSIS)
    while kept and _length(kept + ELLIPSIS, size) > width:
        kept = kept[:-1]
    return kept.rstrip() + ELLIPSIS


def _darken(image: Image.Image, top: int) -> None:
    box = (0, top, image.width, image.height)
    part = image.crop(box)
    image.paste(Image.blend(part, Image.new("RGB", part.size, _PANEL), _STRENGTH), box)


def _line_height(size: int) -> int:
    return round(size * 1.25)


def _length(text: str, size: int) -> float:
    return _font(size).getlength(text)


@functools.lru_cache(maxsize=32)
def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)
