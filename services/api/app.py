"""The application: routes, and what happens to errors.

The one rule: nothing stands between the server and a handler that a request does not need.
"""

from collections.abc import Awaitable, Callable, Sequence

from litestar import HttpMethod, Litestar, route
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from schemas.requests import MAX_REQUEST_BYTES
from services.api import problems
from services.api.answer import Answer, Ask


def assemble(
    handlers: Sequence[HTTPRouteHandler], before: Callable[[Ask], Awaitable[None]] | None = None
) -> Litestar:
    """Put the routes together; ``before`` is called with each request and may raise."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {HttpMethod.OPTIONS}).update(handler.http_methods)
    options = [_options(path, sorted(allowed)) for path, allowed in methods.items()]
    return Litestar(
        [*options, *handlers],
        before_request=before,
        exception_handlers={HTTPException: problems.answer, Exception: problems.answer},
        request_max_body_size=MAX_REQUEST_BYTES,
        openapi_config=None,  # its pages load scripts from elsewhere; see openapi.describe
        logging_config=None,
    )


def _options(path: str, allowed: list[str]) -> HTTPRouteHandler:
    """Answer OPTIONS; Litestar's own knows only the first handler of a path."""

    async def options(request: Ask) -> ASGIApp:  # noqa: ARG001 - Litestar's
        return Answer(204, [(b"allow", ", ".join(allowed).encode())])

    return route(path, http_method=[HttpMethod.OPTIONS], include_in_schema=False)(options)
