"""The pictures of the GPU simulator: deterministic, of the size asked for, and legible."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageStat

from services.gpusim.caption import ELLIPSIS, fit, plain
from services.gpusim.picture import Picture, preview, render

FOX = Picture(prompt="a red fox in the snow", seed=7, width=512, height=512, steps=20)


def opened(picture: Picture, image_format: str = "png") -> Image.Image:
    image = Image.open(io.BytesIO(render(picture, image_format)))
    image.load()
    return image


def test_the_same_picture_gives_the_same_bytes() -> None:
    assert render(FOX) == render(FOX)


@pytest.mark.parametrize(
    "other",
    [
        replace(FOX, prompt="a red fox in the snow."),
        replace(FOX, negative_prompt="blurry"),
        replace(FOX, seed=8),
        replace(FOX, steps=21),
        replace(FOX, width=576),
    ],
)
def test_every_input_changes_the_scene_above_the_text(other: Picture) -> None:
    above = (0, 0, 512, 200)
    assert ImageChops.difference(opened(FOX).crop(above), opened(other).crop(above)).getbbox()


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (1024, 1024), (1024, 64), (64, 1024), (1, 1)])
def test_a_picture_is_a_png_of_the_size_asked_for(size: tuple[int, int]) -> None:
    image = opened(replace(FOX, width=size[0], height=size[1]))
    assert image.format == "PNG"
    assert image.size == size
    assert image.mode == "RGB"


def test_a_jpeg_can_be_had_as_well() -> None:
    image = opened(FOX, "jpeg")
    assert image.format == "JPEG"
    assert image.size == (512, 512)


@pytest.mark.parametrize("side", [512, 1024])
def test_the_prompt_can_be_read_where_it_is_written(side: int) -> None:
    """The letters of the first line stand on the picture, white on a dark panel, pixel by pixel."""
    margin = side // 24
    picture = opened(replace(FOX, width=side, height=side))
    blank = opened(replace(FOX, prompt=" ", width=side, height=side))
    room = (side - 2 * margin, side // 2 - 2 * margin - round(side // 36 * 1.9))
    layout = fit(FOX.prompt, room)
    line = layout.lines[0]
    font = ImageFont.load_default(size=layout.size)
    letters = Image.new("L", (side, round(layout.size * 1.25)))
    ImageDraw.Draw(letters).text((margin, 0), line, fill=255, font=font)
    footer = round(side // 36 * 1.9)
    top = side - margin - footer - len(layout.lines) * round(layout.size * 1.25)
    written = picture.convert("L").crop((0, top, side, top + letters.height))
    ink = ImageStat.Stat(written, letters.point(lambda value: 255 if value > 250 else 0))
    panel = ImageStat.Stat(written, letters.point(lambda value: 255 if value == 0 else 0))
    assert ink.mean[0] > 245
    assert panel.mean[0] < 80
    assert ImageChops.difference(picture, blank).getbbox() is not None


def test_a_short_prompt_is_kept_whole() -> None:
    assert " ".join(fit(FOX.prompt, (460, 200)).lines) == FOX.prompt


def test_a_prompt_too_long_for_the_picture_ends_with_an_ellipsis() -> None:
    layout = fit("a lighthouse on a stormy coast " * 40, (460, 150))
    assert layout.lines[-1].endswith(ELLIPSIS)
    assert len(layout.lines) * round(layout.size * 1.25) <= 150


@given(text=st.text(max_size=300), width=st.integers(30, 600), height=st.integers(12, 400))
@settings(deadline=None)
def test_no_line_leaves_its_room(text: str, width: int, height: int) -> None:
    layout = fit(plain(text), (width, height))
    font = ImageFont.load_default(size=layout.size)
    assert all(font.getlength(line) <= width for line in layout.lines)
    assert len(layout.lines) <= max(1, height // round(layout.size * 1.25))


@given(prompt=st.text(max_size=80), width=st.integers(1, 130), height=st.integers(1, 130))
@settings(deadline=None, max_examples=40)
def test_any_prompt_can_be_drawn_at_any_size(prompt: str, width: int, height: int) -> None:
    assert opened(replace(FOX, prompt=prompt, width=width, height=height)).size == (width, height)


def test_accents_and_line_breaks_become_what_the_font_can_draw() -> None:
    assert plain("Café\n\t— naïve") == "Cafe - naive"


def test_a_huge_prompt_is_read_only_in_part() -> None:
    assert len(plain("x" * 1_000_000)) < 3000


def test_a_preview_is_small_and_comes_nearer_to_the_picture_with_each_step() -> None:
    picture = replace(FOX, prompt="")

    def distance(step: int) -> float:
        seen = Image.open(io.BytesIO(preview(picture, step, "jpeg"))).convert("RGB")
        assert seen.size == (64, 64)
        whole = opened(picture).convert("RGB").resize(seen.size)
        return ImageStat.Stat(ImageChops.difference(seen, whole)).rms[0]

    distances = [distance(step) for step in (1, 7, 13, 20)]
    assert distances == sorted(distances, reverse=True)


def test_the_smallest_picture_has_a_preview() -> None:
    assert Image.open(io.BytesIO(preview(replace(FOX, width=1, height=1), 0))).size == (8, 8)
