"""What the outlook is told of the GPUs: the registry, their health, what they learned, and what they run.

The one rule: a GPU is in service while it is wanted, alive, and nothing is known that keeps it from work.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from schemas.fleet import Circuit, Condition, Health, Learned
from schemas.ids import TaskId
from schemas.lease import Lease
from schemas.registry import Backend, Wanted
from schemas.requests import Kind
from services.api.known_fleet import KnownFleet
from services.api.known_models import KnownModels
from services.leases import Leases
from services.scheduling.moment import Moment
from services.scheduling.rest import rest_s
from services.scheduling.situation import Gpu
from services.settings import Settings

_AT_WORK: Final = (Condition.UNKNOWN, Condition.UP, Condition.LOADING, Condition.OVERLOADED)


class Moments:
    def __init__(self, models: KnownModels, fleet: KnownFleet, leases: Leases, settings: Settings) -> None:
        self._models = models
        self._fleet = fleet
        self._leases = leases
        self._settings = settings

    def now(self, at: datetime) -> Mapping[str, Moment]:
        """Give each kind's moment; none before it is known what backends there are."""
        if not (self._models.known.is_set() and self._fleet.known.is_set() and self._leases.known.is_set()):
            return {}
        gpus: dict[str, list[Gpu]] = {kind: [] for kind in Kind}
        running: dict[str, list[float]] = {}
        for backend in self._models.backends():
            leases = self._leases.running(backend.name)
            unknown_s = self._settings.unknown_run_s
            rests_s = {slot: rest_s(lease, at, unknown_s) for slot, lease in leases}
            for slot, lease in leases:
                running.setdefault(lease.tenant or "", []).append(rests_s[slot])
            health = self._fleet.health.get(backend.name, Health())
            if in_service(backend, health, at):
                learned = self._fleet.learned.get(backend.name, Learned())
                gpus[backend.kind].append(gpu(backend, health, learned, rests_s))
        return {
            kind: Moment(
                gpus=tuple(found),
                pauses=self._fleet.pauses,
                running=running,
                tenant_cap=self._settings.tenant_running_limit,
                model_load_s=self._settings.model_load_s,
            )
            for kind, found in gpus.items()
        }

    def running(self) -> Mapping[TaskId, Lease]:
        """Give the lease of each task that runs or is about to, in all kinds."""
        return {
            lease.task_id: lease
            for backend in self._models.backends()
            for _, lease in self._leases.running(backend.name)
            if lease.task_id
        }


def in_service(backend: Backend, health: Health, at: datetime) -> bool:
    """Say whether a backend takes work, or is about to."""
    alive = backend.alive_until is None or backend.alive_until > at
    fit = health.condition in _AT_WORK and health.circuit is not Circuit.OPEN
    return backend.wanted is Wanted.ON and alive and fit


def gpu(backend: Backend, health: Health, learned: Learned, rests_s: Mapping[int, float]) -> Gpu:
    """Give a backend as policies see it; ``rests_s`` of the slots that run something.

    A slot that is no longer configured ends what it began and is none after that.
    """
    wide = backend.slots if health.wide is None else min(backend.slots, health.wide)
    busy = tuple(rest_s for slot, rest_s in rests_s.items() if slot < backend.slots)
    free = [slot for slot in range(backend.slots) if slot not in rests_s]
    return Gpu(
        name=backend.name,
        kind=backend.kind,
        models=backend.own_names,
        free=tuple(free[: max(0, wide - len(busy))]),
        rests_s=busy,
        keeps=backend.keeps,
        weight=backend.weight,
        learned=learned,
    )
