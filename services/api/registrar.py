"""Changing the registry while everything runs.

The one rule: decided on what stands there and written on top of exactly that; who loses the race decides
again.
"""

import contextlib
from collections.abc import Callable
from typing import Final

import msgspec

from schemas import fleet, registry
from schemas.errors import OutcomeUnknownError, UnavailableError
from schemas.ids import BackendId
from schemas.registry import Backend, Source
from schemas.subjects import BACKENDS, FLEET
from services.api.known_models import KnownModels
from services.bus.buckets import Bucket
from services.bus.connection import Bus

_ATTEMPTS: Final = 10
_MARKED_S: Final = 3600
"""By then everybody has heard that a backend was removed. ``init`` has to know for ever of its own."""

Decide = Callable[[Backend | None], Backend | None]
"""From what is there to what shall be there, None: nothing; RejectedError."""


class Registrar:
    def __init__(self, bus: Bus, models: KnownModels) -> None:
        self._bucket = Bucket(bus, BACKENDS)
        self._fleet = Bucket(bus, FLEET)
        self._models = models

    async def edit(self, name: BackendId, decide: Decide) -> tuple[Backend | None, Backend | None]:
        """Do what is decided, and give what was there and what is now; UnavailableError without NATS."""
        for _ in range(_ATTEMPTS):
            entry = await self._bucket.get(name)
            known = _read(entry.value)
            made = decide(known)
            if made == known:
                return known, made
            if made is None:
                by_config = known is not None and known.source is Source.CONFIG
                marked_s = None if by_config else _MARKED_S
                revision = await self._bucket.delete(name, entry.revision, marked_s=marked_s)
            else:
                revision = await self._bucket.replace(name, registry.encode(made), entry.revision)
            if revision is not None:
                await self._models.reached(revision)
                if made is None:
                    await self._forget(name)
                return known, made
        raise OutcomeUnknownError(f"{name} changes faster than it can be changed")

    async def _forget(self, name: BackendId) -> None:
        """Let go of what was learned of a backend that is removed: the next of that name is another."""
        for key in (fleet.health_key(name), fleet.learned_key(name)):
            with contextlib.suppress(UnavailableError):  # it does no harm where it stays
                entry = await self._fleet.get(key)
                if entry.value is not None:
                    await self._fleet.delete(key, entry.revision, marked_s=_MARKED_S)


def _read(value: bytes | None) -> Backend | None:
    """Give what stands there; what nobody can read may be written over."""
    try:
        return registry.decode(value) if value else None
    except msgspec.MsgspecError:
        return None
