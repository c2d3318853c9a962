"""What dispatchers learn of the GPU instances and tell one another: the bucket FLEET, last writer wins.

The one rule: it may be lost without harm. What is configured or wished for stands elsewhere.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from schemas.ids import BackendId
from schemas.requests import Instant


class Condition(StrEnum):
    """How an instance is. FAILING: it answers, and too much of what it was given has failed.

    STUCK: a call that was stopped, or lost, does not end.
    """

    UNKNOWN = "unknown"
    UP = "up"
    LOADING = "loading"
    OVERLOADED = "overloaded"
    MISCONFIGURED = "misconfigured"
    DOWN = "down"
    FAILING = "failing"
    STUCK = "stuck"


class Circuit(StrEnum):
    """CLOSED: takes work; OPEN: takes none; HALF_OPEN: takes one task, whose end decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Health(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An instance's condition and circuit, as the dispatcher ``by`` saw it change at ``since``.

    ``failures`` in a row by its own fault; ``openings`` in a row of its circuit, which is open until
    ``open_until``; ``wide`` is how many of its slots a slow start lets be used, null for all.
    """

    condition: Condition = Condition.UNKNOWN
    reason: str | None = None
    circuit: Circuit = Circuit.CLOSED
    since: Instant | None = None
    by: str | None = None
    failures: int = 0
    openings: int = 0
    open_until: Instant | None = None
    wide: int | None = None


class Learned(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What runs have shown; models by the instance's own names.

    ``seconds`` a unit of work takes (schemas.work) by model, ``load_s`` a model takes to be loaded,
    ``warm`` the models that are loaded, the one used last first. ``by`` is the dispatcher that wrote it.
    """

    seconds: Mapping[str, float] = {}
    load_s: float | None = None
    warm: tuple[str, ...] = ()
    by: str | None = None


encode: Final = msgspec.json.Encoder().encode
decode_health: Final = msgspec.json.Decoder(Health).decode
decode_learned: Final = msgspec.json.Decoder(Learned).decode

_HEALTH: Final = "health"
_LEARNED: Final = "learned"
_DECODERS: Final[Mapping[str, Callable[[bytes], Health | Learned]]] = {
    _HEALTH: decode_health,
    _LEARNED: decode_learned,
}


def health_key(backend: BackendId) -> str:
    return f"{backend}.{_HEALTH}"


def learned_key(backend: BackendId) -> str:
    return f"{backend}.{_LEARNED}"


def read(key: str, value: bytes) -> tuple[BackendId, Health | Learned] | None:
    """Read an entry of the bucket; None for what a newer version keeps there, or nobody can read."""
    backend, _, what = key.rpartition(".")
    decoder = _DECODERS.get(what)
    try:
        return (BackendId(backend), decoder(value)) if decoder else None
    except (ValueError, RecursionError):
        return None
