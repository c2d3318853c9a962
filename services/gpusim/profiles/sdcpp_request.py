"""How an sd-server reads what it is asked: leniently where it should not be, and strictly where not.

Pure. A member of a wrong type is ignored, sizes are rounded up, and on the synchronous route a tag
in the prompt changes everything else.
"""

import re
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from services.gpusim.painting import within_limits
from services.gpusim.picture import FORMATS, Picture

DEFAULT_SIDE = 512
DEFAULT_STEPS = 20
SIDE_UNIT = 64
MAX_BATCH = 8

FIXED_SEED = 42
"""The seed of every request on the synchronous route that does not set one by tag."""

Value = TypeVar("Value", str, int)

# Any: JSON of any shape; each member's type is checked where it is read.
Json = Any

_TAG = re.compile(r"<sd_cpp_extra_args>(.*?)</sd_cpp_extra_args>")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to draw. `seed` is None where the server is to choose."""

    prompt: str = ""
    negative_prompt: str = ""
    width: int = DEFAULT_SIDE
    height: int = DEFAULT_SIDE
    steps: int = DEFAULT_STEPS
    seed: int | None = None
    count: int = 1
    image_format: str = "png"


class RequestError(Exception):
    """The request is refused: the status and the body that the real server gives."""

    def __init__(self, status: int, body: dict[str, str]) -> None:
        super().__init__(body["error"])
        self.status = status
        self.body = body


def refused(message: str) -> RequestError:
    """Refuse with 400."""
    return RequestError(400, {"error": message})


def server_error(message: str) -> RequestError:
    """Refuse with the 500 that every uncaught exception of the real server becomes."""
    return RequestError(500, {"error": "server_error", "message": f"[json.exception.{message}"})


def parse(body: bytes) -> dict[str, Json]:
    """Decode a body that must be an object. Raises RequestError."""
    if not body:
        raise refused("empty body")
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise server_error(f"parse_error.101] parse error: {error}") from error
    if not isinstance(decoded, dict):
        kind = type(decoded).__name__
        raise server_error(f"type_error.306] cannot use value() with {kind}")
    return decoded


def native(body: dict[str, Json]) -> Wanted:
    """Read a request of the native API; what is missing or of a wrong type has its default."""
    return _checked(_updated(Wanted(), body), body)


def openai(body: dict[str, Json]) -> Wanted:
    """Read a request of the OpenAI route: seed and steps come from the tag in the prompt, or never.

    Members that the real server reads with a type in mind fail with 500 when they have another.
    """
    prompt = _typed(body, "prompt", "")
    count = _typed(body, "n", 1)
    width, height = _size(_typed(body, "size", ""))
    if not prompt:
        raise refused("prompt required")
    wanted = Wanted(prompt=prompt, width=width, height=height, seed=FIXED_SEED, count=max(1, count))
    tag = _TAG.search(prompt)
    if tag is not None:
        wanted = _updated(replace(wanted, prompt=_TAG.sub("", prompt)), _tag_arguments(tag[1]))
    return _checked(wanted, body)


def picture(wanted: Wanted, seed: int) -> Picture:
    """Make it a picture of this seed."""
    return Picture(
        prompt=wanted.prompt,
        negative_prompt=wanted.negative_prompt,
        seed=seed,
        width=wanted.width,
        height=wanted.height,
        steps=wanted.steps,
    )


def _tag_arguments(text: str) -> dict[str, Json]:
    try:
        arguments = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise refused("invalid sd_cpp_extra_args") from error
    if not isinstance(arguments, dict):
        raise refused("invalid sd_cpp_extra_args")
    return arguments


def _updated(wanted: Wanted, body: dict[str, Json]) -> Wanted:
    sample = body.get("sample_params")
    steps = sample.get("sample_steps") if isinstance(sample, dict) else None
    seed = _integer(body.get("seed"), -1 if wanted.seed is None else wanted.seed)
    return replace(
        wanted,
        prompt=_text(body.get("prompt"), wanted.prompt),
        negative_prompt=_text(body.get("negative_prompt"), wanted.negative_prompt),
        width=_integer(body.get("width"), wanted.width),
        height=_integer(body.get("height"), wanted.height),
        steps=_integer(steps, wanted.steps),
        seed=None if seed < 0 else seed,
        count=_integer(body.get("batch_count"), wanted.count),
    )


def _checked(wanted: Wanted, body: dict[str, Json]) -> Wanted:
    """Round the size and refuse what cannot be drawn."""
    image_format = _typed(body, "output_format", "png")
    if image_format not in FORMATS:
        raise refused("invalid output_format, must be one of [png, jpeg]")
    wanted = replace(
        wanted,
        width=_rounded(wanted.width),
        height=_rounded(wanted.height),
        image_format=image_format,
    )
    if not 1 <= wanted.count <= MAX_BATCH or not within_limits(picture(wanted, 0)):
        raise refused("invalid params")
    return wanted


def _rounded(side: int) -> int:
    return DEFAULT_SIDE if side <= 0 else -(-side // SIDE_UNIT) * SIDE_UNIT


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        return DEFAULT_SIDE, DEFAULT_SIDE


def _typed(body: dict[str, Json], name: str, default: Value) -> Value:
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, type(default)):
        kind = type(value).__name__
        raise server_error(f"type_error.302] type must be {type(default).__name__}, but is {kind}")
    return value


def _integer(value: Json, default: int) -> int:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number else default


def _text(value: Json, default: str) -> str:
    return value if isinstance(value, str) else default
