"""Which models there are: the registry, followed and kept in memory.

The one rule: a model is known while some backend of the kind has it that is neither switched off nor gone.
"""

import asyncio

import msgspec
import structlog

from schemas import registry
from schemas.errors import Code, DisconnectedError, RejectedError
from schemas.ids import slug
from schemas.registry import Backend, Wanted
from schemas.requests import Kind, Request
from schemas.subjects import BACKENDS
from services.bus.buckets import Bucket
from services.bus.connection import Bus

log = structlog.get_logger()

_FIRST_STATE_S = 1.0
_SERVING = (Wanted.ON, Wanted.DRAINING)


async def first_state(*known: asyncio.Event) -> None:
    """Wait, just after the start, until what there is has been read."""
    try:
        async with asyncio.timeout(_FIRST_STATE_S):
            for one in known:
                await one.wait()
    except TimeoutError:
        raise DisconnectedError("the registry of backends has not been read yet") from None


class KnownModels:
    """``instance`` is this process's own name."""

    def __init__(self, bus: Bus, instance: str) -> None:
        self._watch = Bucket(bus, BACKENDS).watch(f"models-{instance}")
        self._backends: dict[str, Backend] = {}
        self._slugs: dict[Kind, frozenset[str]] = {}

    async def follow(self) -> None:
        """Keep up with the registry; runs until cancelled."""
        async for entries in self._watch.entries():
            for entry in entries:
                self._backends.pop(entry.key, None)
                if entry.value is not None:
                    self._take(entry.key, entry.value)
            self._slugs = {
                kind: frozenset(model for backend in self._serving(kind) for model in backend.model_slugs)
                for kind in Kind
            }

    async def check(self, request: Request, kind: Kind, member: str) -> None:
        """Refuse a model that nobody has; no model named is always fine."""
        if request.model is None or slug(request.model) in self._slugs.get(kind, ()):
            return
        await first_state(self.known)
        if slug(request.model) in self._slugs.get(kind, ()):
            return
        known = self.names(kind)
        listed = f"known are {', '.join(known)}" if known else f"no {kind} model is known yet"
        raise RejectedError(
            Code.UNKNOWN_MODEL,
            f"no backend has the model {request.model!r}; {listed}",
            member=member,
            allowed=known,
        )

    def names(self, kind: Kind) -> list[str]:
        return sorted({model for backend in self._serving(kind) for model in backend.model_names})

    @property
    def known(self) -> asyncio.Event:
        """Set once what was there at the start is known."""
        return self._watch.follower.caught_up

    def backends(self) -> list[Backend]:
        """Give all that are configured, by name."""
        there = [b for b in self._backends.values() if b.wanted is not Wanted.GONE]
        return sorted(there, key=lambda backend: backend.name)

    def _serving(self, kind: Kind) -> list[Backend]:
        return [b for b in self._backends.values() if b.kind is kind and b.wanted in _SERVING]

    def _take(self, key: str, value: bytes) -> None:
        try:
            self._backends[key] = registry.decode(value)
        except msgspec.MsgspecError as error:
            log.warning("registry.undecodable", backend=key, error=str(error))
