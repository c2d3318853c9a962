"""The pictures that simulated image servers give: a drawn scene with its prompt written on it.

Pure: the same picture gives the same bytes. The scene is halved and enlarged again, which smooths
its edges at little cost; the text is written after that, so that it is sharp. A preview is the same scene,
small, without text, and the more blurred the fewer steps there were.
"""

import hashlib
import io
from collections.abc import Iterator

import msgspec
from PIL import Image, ImageDraw, ImageFilter

from services.gpusim.caption import write

Colour = tuple[int, int, int]

FORMATS = ("png", "jpeg")

_SHAPES = 7
_LATENT = 8
"""A preview has this part of a picture's sides, as one has that is made of latents."""
_SMALLEST = 8
_BLUR = 0.25
"""How much of the shorter side a picture without any step is blurred over."""


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """What a picture is drawn from; sizes in pixels."""

    prompt: str
    negative_prompt: str = ""
    seed: int
    width: int
    height: int
    steps: int


def render(picture: Picture, image_format: str = "png") -> bytes:
    """Draw it and encode it in one of FORMATS."""
    image = _scene(picture, (picture.width, picture.height))
    write(image, picture.prompt, _details(picture))
    return _encoded(image, image_format)


def preview(picture: Picture, step: int, image_format: str = "png") -> bytes:
    """Show how it looks after so many of its steps, encoded in one of FORMATS."""
    width, height = (max(_SMALLEST, side // _LATENT) for side in (picture.width, picture.height))
    left = 1 - min(1.0, step / picture.steps)
    blur = ImageFilter.GaussianBlur(left * _BLUR * min(width, height))
    return _encoded(_scene(picture, (width, height)).filter(blur), image_format)


def _encoded(image: Image.Image, image_format: str) -> bytes:
    encoded = io.BytesIO()
    if image_format == "jpeg":
        image.save(encoded, "JPEG", quality=90)
    else:
        image.save(encoded, "PNG", compress_level=3)
    return encoded.getvalue()


def _details(picture: Picture) -> str:
    size = f"{picture.width}x{picture.height}"
    details = f"seed {picture.seed} · {picture.steps} steps · {size}"
    return f"{details} · without {picture.negative_prompt}" if picture.negative_prompt else details


def _numbers(picture: Picture) -> Iterator[int]:
    """Yield bytes without end, different for every difference in the picture."""
    key = hashlib.sha256(msgspec.json.encode(picture)).digest()
    block = 0
    while True:
        yield from hashlib.sha256(key + block.to_bytes(4)).digest()
        block += 1


def _scene(picture: Picture, size: tuple[int, int]) -> Image.Image:
    numbers = _numbers(picture)
    hue = next(numbers)
    corners = Image.new("RGB", (2, 2))
    for place, turn in (((0, 0), 0), ((1, 0), 28), ((0, 1), 52), ((1, 1), 96)):
        shift = turn + next(numbers) % 16
        corners.putpixel(place, _colour(hue + shift, 100 + next(numbers) % 70, 195))
    scene = corners.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(scene, "RGBA")
    for _ in range(_SHAPES):
        _shape(draw, numbers, size, hue)
    return scene.reduce(2).resize(size, Image.Resampling.BICUBIC)


def _colour(hue: int, saturation: int, value: int) -> Colour:
    pixel = Image.new("HSV", (1, 1), (hue % 256, saturation, value)).convert("RGB").getpixel((0, 0))
    red, green, blue = pixel if isinstance(pixel, tuple) else (0, 0, 0)
    return int(red), int(green), int(blue)


def _shape(draw: ImageDraw.ImageDraw, numbers: Iterator[int], size: tuple[int, int], hue: int) -> None:
    width, height = size
    radius = min(size) * (24 + next(numbers) % 72) // 256 + 1
    x, y = width * next(numbers) // 255, height * next(numbers) // 255
    accent = 128 if next(numbers) % 3 == 0 else 20
    fill = (*_colour(hue + accent + next(numbers) % 40, 150, 250), 70 + next(numbers) % 90)
    kind = next(numbers) % 4
    if kind == 0:
        sides, angle = 3 + next(numbers) % 4, next(numbers)
        draw.regular_polygon((x, y, radius), sides, rotation=angle, fill=fill)
    elif kind == 1:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=fill, width=radius)
    else:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
