"""What is learned of the fleet: seconds that a unit of work takes, for each backend and model. Pure."""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from schemas.ids import BackendId
from schemas.requests import ImageRequest, Request, SpeechRequest

_WEIGHT_OF_NEW = 0.3
_BYTES_PER_UNIT = 320_000
_MEGA = 1_000_000


class Speeds(Struct, frozen=True):
    """Moving averages of seconds per unit of work."""

    seconds: Mapping[tuple[BackendId, str], float] = {}

    def expected_s(self, backend: BackendId, model: str, units: float) -> float | None:
        """Give how long the work should take there; None when nothing is known yet."""
        per_unit = self.seconds.get((backend, model))
        return per_unit * units if per_unit is not None else None

    def learned(self, backend: BackendId, model: str, units: float, took_s: float) -> "Speeds":
        key = (backend, model)
        seen = took_s / units
        old = self.seconds.get(key, seen)
        return replace(self, seconds={**self.seconds, key: old + _WEIGHT_OF_NEW * (seen - old)})


def units_of_work(request: Request, audio_bytes: int = 0) -> float:
    """Measure a request: megapixel steps of a picture, ten seconds of plain 16 kHz sound of a recording."""
    match request:
        case ImageRequest():
            return request.width * request.height * request.steps * request.n / _MEGA
        case SpeechRequest():
            return max(1.0, audio_bytes / _BYTES_PER_UNIT)
