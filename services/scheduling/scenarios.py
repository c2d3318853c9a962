"""Made-up days to try policies on: deterministic, from a seed.

The one rule: chance is a hash of the seed and of what it decides, so a change of one thing moves no other.
"""

import hashlib
import math
from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from statistics import NormalDist
from typing import Final

from schemas.ids import BackendId
from schemas.subjects import Lane
from services.scheduling.simulation import Arrival, Machine

_KIND: Final = "image"
_SPEEDS: Final = (1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 0.5, 0.5)
_MODELS: Final = tuple(f"model-{number}" for number in range(1, 7))
_ZIPF: Final = 1.1
_MEAN_S: Final = 8.0
_SIGMA: Final = 0.5
_LOAD_S: Final = 20.0
_TENANTS: Final = 4
_NORMAL: Final = NormalDist()


def unequal_machines() -> list[Machine]:
    """Give eight GPUs, four of speed 1, two of 2, two of 0.5, that keep two of six models each.

    The most popular one is loaded on all of them, and one of the others.
    """
    return [
        Machine(
            name=BackendId(f"gpu-{number}"),
            kind=_KIND,
            models={model: model for model in _MODELS},
            seconds=dict.fromkeys(_MODELS, _MEAN_S / speed),
            load_s=_LOAD_S,
            warm=(_MODELS[0], _MODELS[1 + number % (len(_MODELS) - 1)]),
            keeps=2,
            weight=speed,
        )
        for number, speed in enumerate(_SPEEDS, 1)
    ]


def unequal_arrivals(load: float, tasks: int, seed: int) -> Iterator[Arrival]:
    """Draw tasks for these machines, of 8 s on the average (log-normal) at speed 1.

    They come by chance (Poisson), so many that the GPUs are busy a share ``load`` of the time, above 0,
    loads of models not counted. The models are of unequal popularity (Zipf, 1.1).
    """
    popularity = list(accumulate((rank + 1) ** -_ZIPF for rank in range(len(_MODELS))))
    every_s = _MEAN_S / (load * sum(_SPEEDS))
    at_s = 0.0
    for number in range(tasks):
        at_s -= every_s * math.log(_chance(seed, number, "gap"))
        model = _MODELS[bisect(popularity, _chance(seed, number, "model") * popularity[-1])]
        tenant = int(_chance(seed, number, "tenant") * _TENANTS)
        size = _NORMAL.inv_cdf(_chance(seed, number, "size"))
        yield Arrival(
            at_s=at_s,
            lane=Lane(_KIND, model, "normal", tenant),
            tenant=f"tenant-{tenant + 1}",
            user=f"user-{int(_chance(seed, number, 'user') * 50) + 1}",
            factor=math.exp(_SIGMA * size - _SIGMA**2 / 2),
        )


def _chance(seed: int, number: int, what: str) -> float:
    """Draw from the open interval (0, 1)."""
    digest = hashlib.sha256(f"{seed}:{number}:{what}".encode()).digest()
    return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48
