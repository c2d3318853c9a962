"""Which models there are: the registry, followed and kept in memory.

The one rule: a model is known while some backend of the kind has it that is neither switched off nor gone.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from schemas import registry
from schemas.errors import Code, DisconnectedError, RejectedError
from schemas.ids import slug
from schemas.registry import Backend, Wanted
from schemas.requests import Kind, Request
from schemas.subjects import BACKENDS
from services.bus.connection import Bus
from services.bus.followed import Followed

log = structlog.get_logger()

_FIRST_STATE_S: Final = 1.0
_OWN_WRITE_S: Final = 1.0
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
        self._followed = Followed(bus, BACKENDS, f"models-{instance}", _backend)
        self._slugs: dict[Kind, frozenset[str]] = {}

    async def follow(self) -> None:
        """Keep up with the registry; runs until cancelled."""
        async for _ in self._followed.changes():
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

    async def check_backend(self, name: str, kind: Kind) -> None:
        """Refuse a backend that there is not, or that serves another kind."""
        await first_state(self.known)
        names = [backend.name for backend in self.backends() if backend.kind is kind]
        if name not in names:
            listed = f"is one of {', '.join(names)}" if names else f"is not known: there is none for {kind}"
            raise RejectedError(Code.OUT_OF_RANGE, f"backend {listed}", member="backend", allowed=names)

    def names(self, kind: Kind) -> list[str]:
        return sorted({model for backend in self._serving(kind) for model in backend.model_names})

    @property
    def known(self) -> asyncio.Event:
        """Set once what was there at the start is known."""
        return self._followed.known

    async def reached(self, revision: int) -> None:
        """Wait a moment until a write of our own is known here."""
        await self._followed.reached(revision, _OWN_WRITE_S)

    def backends(self) -> list[Backend]:
        """Give all that are configured, by name."""
        there = [b for b in self._followed.entries.values() if b.wanted is not Wanted.GONE]
        return sorted(there, key=lambda backend: backend.name)

    def _serving(self, kind: Kind) -> list[Backend]:
        there = self._followed.entries.values()
        return [b for b in there if b.kind is kind and b.wanted in _SERVING]


def _backend(key: str, value: bytes) -> Backend | None:
    try:
        return registry.decode(value)
    except msgspec.MsgspecError as error:
        log.warning("registry.undecodable", backend=key, error=str(error))
        return None
