"""How long a task should take on a GPU, learned from the runs so far and carried over to what has none yet.

The one rule: there is always a figure. What a GPU has shown counts before what the others have.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from statistics import fmean
from typing import Final

from msgspec.structs import replace

from schemas.fleet import Learned
from schemas.ids import ANY_MODEL, BackendId
from services.scheduling.situation import Gpu

UNKNOWN_S: Final = 1.0
"""Seconds per unit of work where nothing has run yet."""

_SURELY: Final = 0.75
"""By less than from this to all, GPUs that are alike differ in what was learned of them, where tasks differ
by a third.
"""

_WEIGHT_OF_NEW: Final = 0.3


class Estimates:
    """What to expect of ``gpus``, all of one kind, busy and free. Models by the GPUs' own names.

    ``model_load_s`` seconds a model takes to be loaded where none has been seen to.
    """

    def __init__(self, gpus: Sequence[Gpu], model_load_s: float) -> None:
        self._gpus = gpus
        self._model_load_s = model_load_s

    def run_s(self, gpu: Gpu, own_model: str, units: float) -> float:
        """Give the seconds that so much work takes there with the model loaded."""
        known = gpu.learned.seconds.get(own_model)
        return units * (self._foretold(gpu, own_model) if known is None else known)

    def load_s(self, gpu: Gpu, own_model: str, warm: Sequence[str]) -> float:
        """Give the seconds before the run begins: 0 unless the model is cold while ``warm`` are loaded."""
        return self.usual_load_s(gpu) if is_cold(gpu, own_model, warm) else 0.0

    def usual_load_s(self, gpu: Gpu) -> float:
        """Give the seconds that a load takes there."""
        known = gpu.learned.load_s
        return self._usual_load_s if known is None else known

    def slowest_s(self, gpu: Gpu) -> float:
        """Give the seconds per unit of the model that takes the longest there."""
        known = gpu.learned.seconds
        others = [own for own in gpu.models.values() or (ANY_MODEL,) if own not in known]
        return max(chain(known.values(), (self._foretold(gpu, own) for own in others)))

    @cached_property
    def copies(self) -> Mapping[str, int]:
        """On how many GPUs each model is loaded."""
        return copies(gpu.learned.warm for gpu in self._gpus)

    def _foretold(self, gpu: Gpu, own_model: str) -> float:
        """Give seconds per unit of a model that has not run there.

        That model's elsewhere, each as if this GPU were there; else what this GPU takes for other models;
        else what all take for all.
        """
        if elsewhere := self._norms.get(own_model):
            return elsewhere * self._paces.get(gpu.name, 1.0)
        if own := gpu.learned.seconds:
            return fmean(own.values())
        return self._usual_s

    @cached_property
    def _means(self) -> Mapping[str, float]:
        """Mean seconds per unit of each model that has run on more than one GPU."""
        return {model: fmean(seen) for model, seen in self._seen(paced=False).items() if len(seen) > 1}

    @cached_property
    def _paces(self) -> Mapping[BackendId, float]:
        """How many times the mean each GPU takes for the models that it shares with others."""
        paces = {}
        for gpu in self._gpus:
            shared = [
                seconds / self._means[model]
                for model, seconds in gpu.learned.seconds.items()
                if self._means.get(model)
            ]
            if shared:
                paces[gpu.name] = fmean(shared) or 1.0
        return paces

    @cached_property
    def _norms(self) -> Mapping[str, float]:
        """Seconds per unit of each model on a GPU of pace 1."""
        return {model: fmean(seen) for model, seen in self._seen(paced=True).items()}

    def _seen(self, *, paced: bool) -> Mapping[str, list[float]]:
        seen: dict[str, list[float]] = {}
        for gpu in self._gpus:
            pace = self._paces.get(gpu.name, 1.0) if paced else 1.0
            for model, seconds in gpu.learned.seconds.items():
                seen.setdefault(model, []).append(seconds / pace)
        return seen

    @cached_property
    def _usual_s(self) -> float:
        every = [seconds for gpu in self._gpus for seconds in gpu.learned.seconds.values()]
        return fmean(every) if every else UNKNOWN_S

    @cached_property
    def _usual_load_s(self) -> float:
        seen = [gpu.learned.load_s for gpu in self._gpus if gpu.learned.load_s is not None]
        return fmean(seen) if seen else self._model_load_s


def runs_as(gpu: Gpu, model: str, warm: Sequence[str]) -> str | None:
    """Give the own name of the model that a task asking for the slug ``model`` runs on there.

    None when that GPU has no such model. ``any`` is the loaded model that was used last, else its first;
    where a GPU does not say what it has, ``any`` stands for whatever that is.
    """
    if model != ANY_MODEL:
        return gpu.models.get(model)
    owned = gpu.models.values()
    return next((own for own in warm if own in owned), None) or next(iter(owned), ANY_MODEL)


def runs_on(gpus: Sequence[Gpu]) -> Callable[[str], bool]:
    """Give what says whether any of these has the model that a slug stands for, see ``runs_as``."""
    known = [gpu.models for gpu in gpus]

    def runs(model: str) -> bool:
        for models in known:
            if model in models:
                return True
        return model == ANY_MODEL and bool(known)

    return runs


def is_cold(gpu: Gpu, own_model: str, warm: Sequence[str]) -> bool:
    """Say whether a model has to be loaded first, while ``warm`` are; never where there is only one."""
    return own_model not in warm and any(own != own_model for own in gpu.models.values())


def after(warm: tuple[str, ...], own_model: str, keeps: int) -> tuple[str, ...]:
    """Give what is loaded once a model has been used, the one used last first, at most ``keeps``."""
    return (own_model, *(model for model in warm if model != own_model))[:keeps]


def copies(loaded: Iterable[Sequence[str]]) -> Mapping[str, int]:
    """Count on how many GPUs each model is, of what each has ``loaded``."""
    return Counter(chain.from_iterable(loaded))


def again_s(gpu: Gpu, load_s: float, warm: Sequence[str], there: Mapping[str, int]) -> float:
    """Give what a load of ``load_s`` costs others: that of the model that it pushes out of ``warm``.

    It will have to be repeated, and is missed the less the more GPUs have that model: ``there``.
    """
    if not load_s or len(warm) < gpu.keeps:
        return 0.0
    return load_s / max(1, there.get(warm[-1], 1))


def worth_waiting(other_s: float, own_s: float, load_s: float = 0.0) -> bool:
    """Say whether a free slot, which would be done in ``own_s``, stays idle for one that is in ``other_s``.

    A warm one only where that is surely less, one that has a load of ``load_s`` to do first wherever it is.
    """
    return other_s < own_s * (1.0 if load_s else _SURELY)


def learned(
    so_far: Learned, own_model: str, units: float, took_s: float, *, cold: bool, keeps: int
) -> Learned:
    """Take in a run that succeeded: ``units`` of work in ``took_s`` seconds, with the load if it was cold.

    The first run of a model says nothing when it was cold: how long the load was cannot be told apart.
    """
    known = so_far.seconds.get(own_model)
    seconds, load_s = so_far.seconds, so_far.load_s
    if not cold:
        seconds = {**seconds, own_model: _moved(known, took_s / units)}
    elif known is not None:
        load_s = _moved(load_s, max(0.0, took_s - known * units))
    return replace(so_far, seconds=seconds, load_s=load_s, warm=after(so_far.warm, own_model, keeps))


def _moved(old: float | None, seen: float) -> float:
    return seen if old is None else old + _WEIGHT_OF_NEW * (seen - old)
