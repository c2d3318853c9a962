"""The GPUs as the policies see them at this moment: what is free, and how long the rest is busy.

The one rule: a slot is free when its lease says so, whoever had it, and its backend lets it be used.
"""

from collections.abc import Callable
from datetime import datetime

from schemas.ids import BackendId
from schemas.lease import Claim
from services import clock
from services.dispatcher.instances import Instance, Slot
from services.dispatcher.registry import Registry
from services.leases import Leases
from services.scheduling.rest import rest_s
from services.scheduling.situation import Gpu
from services.settings import Settings


class Overview:
    def __init__(self, leases: Leases, registry: Registry, settings: Settings) -> None:
        self._leases = leases
        self._registry = registry
        self._settings = settings

    def gpus(self) -> list[Gpu]:
        """Give every instance that may be given work, its busy slots too."""
        now = clock.now()
        widths = self._registry.widths(now)
        return [
            self._gpu(instance, width, now)
            for name, instance in self._registry.instances.items()
            if (width := widths[name])
        ]

    @property
    def any_free(self) -> bool:
        """Whether there is anything to match at all."""
        return any(self.is_free(slot) for one in self._registry.instances.values() for slot in one.slots)

    def could_begin(self, waits: Callable[[Instance], bool]) -> bool:
        """Whether there is a free slot for anything that waits: quickly, since mostly there is none."""
        return any(
            waits(instance) and instance.in_service and any(map(self.is_free, instance.slots))
            for instance in self._registry.instances.values()
        )

    def _gpu(self, instance: Instance, width: int, now: datetime) -> Gpu:
        free, rests_s = [], []
        for slot in instance.slots:
            if not self.is_free(slot):
                rests_s.append(self._rest_s(slot, now))
            elif slot.number < width:
                free.append(slot.number)
        return instance.gpu(free=tuple(free), rests_s=tuple(rests_s))

    def is_free(self, slot: Slot) -> bool:
        """Whether work could begin there at once."""
        if slot.occupied:
            return False
        return slot.holds() is not None or (
            slot.held is None and self._leases.claim(slot.key) is Claim.FREE
        )

    def free_slot(self, backend: BackendId) -> Slot | None:
        """Give a slot of that backend that may be given work and is free."""
        instance = self._registry.instances.get(backend)
        width = self._registry.widths(clock.now()).get(backend, 0)
        slots = instance.slots[:width] if instance else ()
        return next((slot for slot in slots if self.is_free(slot)), None)

    def _rest_s(self, slot: Slot, now: datetime) -> float:
        sighting = self._leases.sighting(slot.key)
        lease = slot.held.lease if slot.held else sighting.lease if sighting else None
        return rest_s(lease, now, self._settings.unknown_run_s)
