"""What operators wish for whole queues: the bucket CONTROL. A pause stops starts and nothing else.

The one rule: a key that is there is a pause; resuming deletes it.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from schemas.ids import ANY_MODEL
from schemas.requests import Instant


class Pause(Struct, frozen=True, kw_only=True, omit_defaults=True):
    at: Instant
    by: str
    reason: str | None = None


encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(Pause).decode

_PREFIX: Final = "pause"


def pause_key(kind: str, model: str | None = None) -> str:
    """Name the pause of a kind, or of one queue of it; ``model`` is a slug, or ``any``."""
    return f"{_PREFIX}.{kind}" if model is None else f"{_PREFIX}.{kind}.{model}"


def queue_of(key: str) -> tuple[str, str] | None:
    """Give kind and model of the one queue that a key pauses, None where it is a whole kind."""
    _, _, queue = key.partition(".")
    kind, _, model = queue.partition(".")
    return (kind, model) if model else None


def paused(pauses: Mapping[str, Pause], kind: str, model: str = ANY_MODEL) -> Pause | None:
    """Give the pause that holds a queue back, None while there is none; ``pauses`` are by key."""
    return pauses.get(pause_key(kind)) or pauses.get(pause_key(kind, model))
