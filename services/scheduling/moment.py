"""What the future of a line depends on, and the GPUs' slots as work is laid on them.

The one rule: a task goes where the dispatchers would have it, as the estimates say: to the slot that is
free first and has its model, unless it should surely end earlier somewhere else.
"""

import heapq
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from msgspec import Struct

from schemas import control
from schemas.control import Pause
from schemas.ids import ANY_MODEL
from schemas.standing import Why
from schemas.subjects import Lane
from services.scheduling.estimates import Estimates, after, again_s, copies, runs_as, worth_waiting
from services.scheduling.situation import Gpu


class Moment(Struct, frozen=True, kw_only=True, dict=True):
    """A kind's GPUs and what is wished for. Durations in seconds from now.

    ``gpus`` are those in service, ``pauses`` by key (schemas.control). ``running`` says of each tenant how
    long each task that it runs should take still; it runs ``tenant_cap`` at once at most.
    """

    gpus: tuple[Gpu, ...] = ()
    pauses: Mapping[str, Pause] = {}
    running: Mapping[str, Sequence[float]] = {}
    tenant_cap: int | None = None
    model_load_s: float = 0.0

    @cached_property
    def estimates(self) -> Estimates:
        return Estimates(self.gpus, self.model_load_s)

    @cached_property
    def foretells(self) -> bool:
        """Whether any GPU has shown how fast it is."""
        return any(gpu.learned.seconds for gpu in self.gpus)

    def has_run(self, model: str) -> bool:
        """Whether any GPU has shown how fast it is with that model."""
        return any(runs_as(gpu, model, gpu.learned.warm) in gpu.learned.seconds for gpu in self.gpus)

    def why(self, lane: Lane, tenant: str, due_s: float = 0.0) -> Why:
        """Say what holds a task back that may start in ``due_s``."""
        if self.pauses and control.paused(self.pauses, lane.kind, lane.model):
            return Why.PAUSED
        if not any(lane.model == ANY_MODEL or lane.model in gpu.models for gpu in self.gpus):
            return Why.NO_BACKEND
        if due_s > 0:
            return Why.RETRY_DELAY
        if self.tenant_cap is not None and len(self.running.get(tenant, ())) >= self.tenant_cap:
            return Why.TENANT_CAP
        return Why.WAITING_FOR_SLOT

    def run_s(self, model: str, units: float) -> float | None:
        """Give the time that so much work takes where it is done fastest, None where nobody can tell."""
        if not self.foretells:
            return None
        able = ((gpu, runs_as(gpu, model, gpu.learned.warm)) for gpu in self.gpus)
        return min((self.estimates.run_s(gpu, own, units) for gpu, own in able if own), default=None)

    def run_on_s(self, backend: str, model: str, units: float) -> float | None:
        """Give the time that it takes on one GPU, None where nobody can tell."""
        gpu = next((gpu for gpu in self.gpus if gpu.name == backend), None)
        own = runs_as(gpu, model, gpu.learned.warm) if gpu and self.foretells else None
        return self.estimates.run_s(gpu, own, units) if gpu and own else None


class Run(NamedTuple):
    """From when to when a task should run, in seconds from now; ``unit_s``: a unit of its work there."""

    start_s: float
    end_s: float
    unit_s: float = 0.0

    def after(self, start_s: float) -> "Run":
        """Give the same run, begun then at the earliest."""
        late_s = max(0.0, start_s - self.start_s)
        return Run(self.start_s + late_s, self.end_s + late_s, self.unit_s)


class _Offer(NamedTuple):
    """What a GPU makes of a model, the way it is loaded then; ``lost_s``: what the load costs others."""

    own_model: str
    load_s: float
    lost_s: float
    per_unit_s: float


class _Place(NamedTuple):
    gpu: int
    offer: _Offer
    run: Run
    cost_s: float

    def waits_for(self, other: "_Place") -> bool:
        """Whether its slot, once free, is left idle for ``other``, or that one is free before."""
        start_s = self.run.start_s
        return other.run.start_s < start_s or worth_waiting(other.cost_s - start_s, self.cost_s - start_s)


class Slots:
    """Each GPU's slots by when they are free, its warm models, and each tenant's runs by their end."""

    def __init__(
        self,
        moment: Moment,
        free: list[list[float]],
        warm: list[tuple[str, ...]],
        tenants: dict[str, list[float]],
    ) -> None:
        self._moment = moment
        self._free = free
        self._warm = warm
        self._tenants = tenants
        self._copies = copies(warm)
        self._offers: list[dict[str, _Offer | None]] = [{} for _ in warm]

    @classmethod
    def now(cls, moment: Moment) -> "Slots":
        """Give the slots as they are."""
        free = [[*(0.0 for _ in gpu.free), *gpu.rests_s] for gpu in moment.gpus]
        tenants = {tenant: list(rests) for tenant, rests in moment.running.items()}
        for heap in (*free, *tenants.values()):
            heapq.heapify(heap)
        return cls(moment, free, [gpu.learned.warm for gpu in moment.gpus], tenants)

    def copy(self) -> "Slots":
        tenants = {tenant: list(ends) for tenant, ends in self._tenants.items()}
        return Slots(self._moment, [list(free) for free in self._free], list(self._warm), tenants)

    def soonest(self, model: str, units: float, tenant: str, due_s: float = 0.0) -> Run | None:
        """Say when a task would run that was laid out next, None where no GPU has its model."""
        found = self._soonest(model, units, self.ready_s(tenant, due_s))
        return found.run if found else None

    def lay(self, model: str, units: float, tenant: str, due_s: float = 0.0) -> Run | None:
        """Lay a task out. The wait for its own time is left to others, so the slot is charged the run."""
        found = self._soonest(model, units, self.ready_s(tenant, due_s))
        if found is None:
            return None
        index, offer, run, _ = found
        free = self._free[index]
        heapq.heapreplace(free, free[0] + run.end_s - run.start_s)
        if self._warm[index][:1] != (offer.own_model,):
            keeps = self._moment.gpus[index].keeps
            self._warm[index] = after(self._warm[index], offer.own_model, keeps)
            self._copies = copies(self._warm)
            for offers in self._offers:
                offers.clear()
        self._take(tenant, run.end_s)
        return run

    def ready_s(self, tenant: str, due_s: float) -> float:
        """Say when a task may start, by its own time and its tenant's cap."""
        cap, ends = self._moment.tenant_cap, self._tenants.get(tenant, [])
        return due_s if cap is None or len(ends) < cap else max(due_s, ends[0])

    def _soonest(self, model: str, units: float, ready_s: float) -> _Place | None:
        best: _Place | None = None
        first: _Place | None = None  # of those that are warm
        for index, free in enumerate(self._free):
            offers = self._offers[index]
            offer = offers[model] if model in offers else self._offer(index, model)
            if offer is None or not free:
                continue
            start_s = max(free[0], ready_s)
            end_s = start_s + offer.load_s + units * offer.per_unit_s
            cost_s = end_s + offer.lost_s
            sooner = best is None or cost_s < best.cost_s
            earlier = not offer.load_s and (
                first is None or (start_s, cost_s) < (first.run.start_s, first.cost_s)
            )
            if sooner or earlier:
                place = _Place(index, offer, Run(start_s, end_s, offer.per_unit_s), cost_s)
                best = place if sooner else best
                first = place if earlier else first
        return first if first and best and not first.waits_for(best) else best

    def _offer(self, index: int, model: str) -> _Offer | None:
        gpu, warm, estimates = self._moment.gpus[index], self._warm[index], self._moment.estimates
        own = runs_as(gpu, model, warm)
        made = None
        if own is not None:
            load_s = estimates.load_s(gpu, own, warm)
            lost_s = again_s(gpu, load_s, warm, self._copies)
            made = _Offer(own, load_s, lost_s, estimates.run_s(gpu, own, 1.0))
        self._offers[index][model] = made
        return made

    def _take(self, tenant: str, end_s: float) -> None:
        cap = self._moment.tenant_cap
        if cap is None:
            return
        ends = self._tenants.setdefault(tenant, [])
        if len(ends) < cap:
            heapq.heappush(ends, end_s)
        else:
            heapq.heapreplace(ends, end_s)
