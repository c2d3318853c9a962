"""How long a dispatcher thinks between two tasks: the choice of lane and slot alone, by queues that wait.

The one rule: one slot is free, and every lane has work. What has changed since the last choice is taken in
as the loop does it.
"""

import time
from typing import Final

from msgspec.structs import replace

from benchmarks.measure import MILLISECONDS, Figure, Samples, spread
from benchmarks.rig import Bench
from schemas.fleet import Learned
from schemas.ids import BackendId
from schemas.subjects import Lane
from services.bus.streams import Depth
from services.dispatcher.board import Board
from services.scheduling.fairness import Turns
from services.scheduling.layout import NAME
from services.scheduling.matching import match
from services.scheduling.situation import Gpu

FEW: Final = 16
QUEUES: Final = (1_000, 10_000)
FLEETS: Final = (1, 16)
KEEPS: Final = 2
CHOICES: Final = 200
BLOCKS: Final = 5
MOST_MS: Final = 2.0
"""A fifth of what a GPU may wait for its next task."""


async def measure(bench: Bench) -> list[Figure]:
    return [await _compared(bench, queues, gpus) for gpus in FLEETS for queues in QUEUES]


async def _compared(bench: Bench, queues: int, gpus: int) -> Figure:
    floor, ours = Chooser(FEW, gpus), Chooser(queues, gpus)
    for chooser in (floor, ours):
        await chooser.choices()
    floor_runs, our_runs = await bench.in_turns(floor.choices, ours.choices, BLOCKS)
    whose = "one GPU that has all models" if gpus == 1 else f"{gpus} GPUs with a share of the models each"
    label = "choice" if gpus == 1 else f"choice on {gpus} GPUs"
    figure = Figure(
        name=f"{label}, {queues:,} queues",
        what=f"which lane is next, and where: {whose}, one free",
        floor_what=f"the same with {FEW}",
        unit=MILLISECONDS,
        ours=spread(our_runs),
        floor=spread(floor_runs),
        target=f"p50 at most {MOST_MS:g} ms",
        series=f"{label} by queues",
        along="queues",
        at=float(queues),
    )
    return replace(figure, met=figure.ours.p50 <= MOST_MS)


class Chooser:
    """So many queues, of a model each, on so many GPUs of which the last is free all the time."""

    def __init__(self, queues: int, gpus: int) -> None:
        self._board, self._turns = Board(), Turns()
        self._now = 0.0
        models = [f"model-{number}" for number in range(queues)]
        lanes = [Lane("image", model, "normal", 0) for model in models]
        self._board.refresh({lane: Depth(1_000_000, 0) for lane in lanes}, {}, self._now)
        self._gpus = [_gpu(number, models[number::gpus], free=number == gpus - 1) for number in range(gpus)]

    async def choices(self) -> Samples:
        """Choose, and take in how the one before ended; milliseconds each."""
        return [self._choice_ms() for _ in range(CHOICES)]

    def _choice_ms(self) -> float:
        began = time.perf_counter()
        self._turns.admit(self._board.changes(self._now, lambda _: False))
        choice = match(self._turns, self._gpus, lambda _: NAME, now=self._now, model_load_s=1.0)
        assert choice is not None
        self._turns.serve(choice.lane, choice.seconds)
        self._board.take(choice.lane, self._now)
        took_ms = (time.perf_counter() - began) * 1000
        self._board.pulled(choice.lane, self._now, found=True)
        self._turns.settle(choice.lane, choice.seconds, choice.seconds * 1.1)
        self._now += 1.0
        return took_ms


def _gpu(number: int, models: list[str], *, free: bool) -> Gpu:
    return Gpu(
        name=BackendId(f"gpu-{number}"),
        kind="image",
        models=dict(zip(models, models, strict=True)),
        free=(0,) if free else (),
        rests_s=() if free else (5.0,),
        keeps=KEEPS,
        learned=Learned(seconds=dict.fromkeys(models, 1.0), load_s=20.0, warm=tuple(models[:KEEPS])),
    )
