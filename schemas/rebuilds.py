"""What a projector says of a read model that it is making anew.

The one rule: each message says all of it, so that whoever comes late or misses one knows as much.
"""

from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct


class Phase(StrEnum):
    """In this order; DONE and FAILED are the last."""

    BUILDING = "building"
    CATCHING_UP = "catching_up"
    INDEXING = "indexing"
    COMPARING = "comparing"
    DONE = "done"
    FAILED = "failed"


ENDS: Final = frozenset({Phase.DONE, Phase.FAILED})


class Rebuild(Struct, frozen=True, kw_only=True):
    """``projector``: where it runs and which file it makes. ``events`` of about ``of`` are folded.

    ``seconds`` since it began; ``built_s`` until the file was built, ``in_place_s`` until it served.
    ``before`` and ``after`` are the checksums of both files at ``sequence``; ``error`` of one that failed.
    """

    projector: str
    phase: Phase
    events: int = 0
    of: int = 0
    seconds: float = 0.0
    built_s: float | None = None
    in_place_s: float | None = None
    sequence: int | None = None
    before: str | None = None
    after: str | None = None
    error: str | None = None

    @property
    def equal(self) -> bool:
        return self.before is not None and self.before == self.after


encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(Rebuild).decode
