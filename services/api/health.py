"""Routes for whoever runs this: alive, ready, and the description of the api.

The one rule: alive says nothing of others; ready says what keeps it from being so.
"""

from collections.abc import Callable
from typing import Final

from litestar import route
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from schemas.errors import UnavailableError
from services.api import lag
from services.api.answer import JSON, NO_CACHE, READ, Answer, Ask, encode
from services.api.queries import ReadModel, ReadModelAwayError
from services.bus.connection import Bus

HOPELESS_LAG: Final = 50_000
"""How many messages the read model may be behind and still be of use."""


class HealthRoutes:
    """``schema`` gives the OpenAPI document, encoded."""

    def __init__(self, bus: Bus, model: ReadModel, schema: Callable[[], bytes]) -> None:
        self._bus = bus
        self._model = model
        self._schema = schema

    def handlers(self) -> list[HTTPRouteHandler]:
        return [
            route("/healthz", http_method=READ, include_in_schema=False)(self.alive),
            route("/readyz", http_method=READ, include_in_schema=False)(self.ready),
            route("/schema", http_method=READ, include_in_schema=False)(self.schema),
        ]

    async def alive(self, request: Ask) -> ASGIApp:  # noqa: ARG002 - Litestar's
        return Answer(200, [JSON, NO_CACHE], b'{"status":"ok"}')

    async def ready(self, request: Ask) -> ASGIApp:  # noqa: ARG002 - Litestar's
        reasons = await self._reasons()
        status = "not_ready" if reasons else "ready"
        body = encode({"status": status, "reasons": reasons})
        return Answer(503 if reasons else 200, [JSON, NO_CACHE], body)

    async def schema(self, request: Ask) -> ASGIApp:  # noqa: ARG002 - Litestar's
        return Answer(200, [JSON], self._schema())

    async def _reasons(self) -> list[str]:
        reasons = []
        checkpoint = None
        try:
            checkpoint = lag.applied(self._model)
        except ReadModelAwayError as error:
            reasons.append(str(error))
        try:
            last = await lag.last_stored(self._bus)
        except UnavailableError as error:
            return [*reasons, str(error)]
        if checkpoint is not None and last - checkpoint > HOPELESS_LAG:
            reasons.append(f"the read model is {last - checkpoint} messages behind")
        return reasons
