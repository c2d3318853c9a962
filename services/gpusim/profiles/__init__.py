"""The real servers that the simulator imitates, one module each.

A profile has the routes of its server and no others, and copies its manners, the bad ones too.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec
from aiohttp import web


class Profile(Protocol):
    """One server's protocol on top of the one GPU."""

    notices_disconnect: bool
    """Whether a request is cancelled when its client goes away."""

    def routes(self) -> Sequence[web.RouteDef]:
        """List the routes of the real server."""
        ...

    def unauthorized(self, path: str) -> web.Response | None:
        """Answer a request without the right key; None lets it pass on this path."""
        ...

    def missing(self, status: int) -> web.Response:
        """Answer a request that no route takes; the status is 404 or 405."""
        ...

    async def run(self) -> None:
        """Do what the server does beside answering; return when there is nothing more to do."""
        ...


def reply(body: object, status: int = 200) -> web.Response:
    """Answer in JSON."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def detail(message: str, status: int) -> web.Response:
    """Answer with an error as FastAPI does."""
    return reply({"detail": message}, status)


def unprocessable(location: Sequence[str], message: str) -> web.Response:
    """Answer 422 as FastAPI does."""
    error = {"type": "value_error", "loc": list(location), "msg": message}
    return reply({"detail": [error]}, 422)


def fastapi_missing(status: int) -> web.Response:
    """Answer as FastAPI does where it has no route."""
    return detail("Not Found" if status == web.HTTPNotFound.status_code else "Method Not Allowed", status)
