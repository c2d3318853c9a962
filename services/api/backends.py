"""Routes that add backends, change them and remove them, and by which instances announce themselves.

The one rule: whatever is decided stands in ``registering``; here it is only carried out and shown.
"""

from collections.abc import Callable
from datetime import datetime

from litestar import delete, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from schemas import intake, registering
from schemas.checking import Raw
from schemas.ids import BackendId
from schemas.registry import Backend, Wanted
from schemas.views import API
from services.api import asking, openapi
from services.api.answer import JSON, Answer, Ask, encode
from services.api.fleet import unknown_backend
from services.api.known_models import KnownModels, first_state
from services.api.registrar import Registrar
from services.api.shown_fleet import BackendView
from services.leases import Leases


class BackendRoutes:
    """``show`` gives a backend as the api shows it."""

    def __init__(
        self,
        registrar: Registrar,
        models: KnownModels,
        leases: Leases,
        show: Callable[[Backend], BackendView],
        now: Callable[[], datetime],
    ) -> None:
        self._registrar = registrar
        self._models = models
        self._leases = leases
        self._show = show
        self._now = now

    def handlers(self) -> list[HTTPRouteHandler]:
        one = f"{API}/backends/{{name:str}}"
        return [
            post(f"{API}/backends", opt=openapi.ADD_BACKEND)(self.add),
            patch(one, opt=openapi.CHANGE_BACKEND)(self.change),
            delete(one, status_code=200, opt=openapi.REMOVE_BACKEND)(self.remove),
        ]

    async def add(self, request: Ask) -> ASGIApp:
        """Add a backend, or with ttl_s let it announce itself, and again while it lives."""
        new = registering.addition(await _body(request), self._now())
        before, made = await self._registrar.edit(new.name, lambda known: registering.added(known, new))
        there = before is not None and before.wanted is not Wanted.GONE
        location = (b"location", f"{API}/backends/{new.name}".encode())
        return self._answer(made or new, 200 if there else 201, location)

    async def change(self, request: Ask, name: FromPath[str]) -> ASGIApp:
        """Change a backend: how it is reached, what it is given, whether it is on."""
        body = await _body(request)
        _, made = await self._registrar.edit(
            self._named(name), lambda known: registering.changed(self._there(name, known), body)
        )
        return self._answer(self._there(name, made))

    async def remove(self, request: Ask, name: FromPath[str]) -> ASGIApp:
        """Remove a backend that is drained or off and runs nothing; the answer is what it was."""
        asking.parameters(request.scope["query_string"])
        checked = self._named(name)
        await first_state(self._leases.known)

        def decide(known: Backend | None) -> None:
            registering.removed(self._there(name, known), running=len(self._leases.running(checked)))

        before, _ = await self._registrar.edit(checked, decide)
        return self._answer(self._there(name, before))

    def _named(self, name: str) -> BackendId:
        checked = registering.backend_named(name)
        return self._there(name, None).name if checked is None else checked

    def _there(self, name: str, known: Backend | None) -> Backend:
        if known is None or known.wanted is Wanted.GONE:
            raise unknown_backend(name, [backend.name for backend in self._models.backends()])
        return known

    def _answer(self, backend: Backend, status: int = 200, *more: tuple[bytes, bytes]) -> ASGIApp:
        return Answer(status, [JSON, *more], encode(self._show(backend)))


async def _body(request: Ask) -> Raw:
    asking.parameters(request.scope["query_string"])
    return intake.read_json(await request.body())
