"""Routes that show the backends and the queues before them.

The one rule: they only look. What is shown comes from the registry and the leases as they are followed,
and from the projector's counts.
"""

import contextlib
from collections.abc import Sequence

from litestar import route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from schemas import readmodel
from schemas.errors import Code, DisconnectedError, RejectedError, UnavailableError
from schemas.fleet import Health, Learned
from schemas.registry import Backend
from schemas.views import API
from services.api import asking, lag, openapi, past, shown_fleet
from services.api.answer import JSON, NO_CACHE, READ, Answer, Ask, encode
from services.api.known_fleet import KnownFleet
from services.api.known_models import KnownModels, first_state
from services.api.outlook import Foresight
from services.api.past import Past
from services.api.queries import ReadModel
from services.api.shown_fleet import BackendView, Counted, Fleet, Queues
from services.bus.connection import Bus
from services.leases import Leases


class FleetRoutes:
    def __init__(
        self,
        bus: Bus,
        model: ReadModel,
        models: KnownModels,
        fleet: KnownFleet,
        leases: Leases,
        foresight: Foresight,
        past: Past,
    ) -> None:
        self._past = past
        self._bus = bus
        self._model = model
        self._models = models
        self._fleet = fleet
        self._leases = leases
        self._foresight = foresight

    def handlers(self) -> list[HTTPRouteHandler]:
        one = f"{API}/backends/{{name:str}}"
        return [
            route(f"{API}/backends", http_method=READ, opt=openapi.BACKENDS)(self.backends),
            route(one, http_method=READ, opt=openapi.BACKEND)(self.backend),
            route(f"{API}/queues", http_method=READ, opt=openapi.QUEUES)(self.queues),
        ]

    async def backends(self, request: Ask) -> ASGIApp:
        """List backends and what they run."""
        shown = tuple(self.shown(backend) for backend in await self._there(request))
        return Answer(200, [JSON, NO_CACHE], encode(Fleet(shown)))

    async def backend(self, request: Ask, name: FromPath[str]) -> ASGIApp:
        """Show a backend and what it runs."""
        there = await self._there(request)
        found = next((backend for backend in there if backend.name == name), None)
        if found is None:
            names = [backend.name for backend in there]
            raise unknown_backend(name, names)
        return Answer(200, [JSON, NO_CACHE], encode(self.shown(found)))

    async def queues(self, request: Ask) -> ASGIApp:
        """List queues, as they are or as they were: who waits, and for how many slots."""
        query = asking.parameters(request.scope["query_string"], *past.MEMBERS)
        if moment := await self._past.moment(query):
            return Answer(200, [JSON, NO_CACHE], encode(await self._past.queues(moment)))
        behind = await self._lag()
        rows = await self._model.page(readmodel.QUEUES, ())
        if self._bus.connected:
            with contextlib.suppress(DisconnectedError):  # the counts are worth showing by themselves
                await first_state(self._models.known, self._fleet.known)
        await self._foresight.fresh()
        counted = [Counted(*row) for row in rows]
        queues = shown_fleet.queues(
            counted, self._models.backends(), self._fleet.pauses, self._foresight.foretell
        )
        return Answer(200, [JSON, NO_CACHE], encode(Queues(queues, behind)))

    async def _there(self, request: Ask) -> list[Backend]:
        asking.parameters(request.scope["query_string"])
        await first_state(self._models.known, self._fleet.known, self._leases.known)
        return self._models.backends()

    def shown(self, backend: Backend) -> BackendView:
        return shown_fleet.backend(
            backend,
            self._leases.running(backend.name),
            self._fleet.health.get(backend.name, Health()),
            self._fleet.learned.get(backend.name, Learned()),
        )

    async def _lag(self) -> int | None:
        checkpoint = lag.applied(self._model)
        try:
            # A stream that was made anew counts from the beginning, until the read model is made anew too.
            return max(0, await lag.last_stored(self._bus) - checkpoint)
        except UnavailableError:
            return None


def unknown_backend(name: str, names: Sequence[str]) -> RejectedError:
    return RejectedError(Code.UNKNOWN_BACKEND, f"there is no backend {name!r}", allowed=names)
