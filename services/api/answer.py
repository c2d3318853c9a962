"""Answers as bytes: what a handler returns is an ASGI callable, with nothing left to be worked out.

The one rule: headers are spelled here or where they are decided, never merged or encoded a second time.
"""

from typing import Any, Final

import msgspec
from litestar import HttpMethod, Request
from litestar.types import Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]
Ask = Request[Any, Any, Any]  # Any: Litestar's user, auth and state, of which there is none

READ: Final = (HttpMethod.GET, HttpMethod.HEAD)
JSON: Final = (b"content-type", b"application/json")
NO_CACHE: Final = (b"cache-control", b"no-cache")
_BODILESS: Final = frozenset({204, 304})

encode: Final = msgspec.json.Encoder().encode


class Answer:
    """A whole answer. Status 204 and 304 have no body and say nothing of its length."""

    __slots__ = ("_body", "_headers", "_status")

    def __init__(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self._status = status
        self._headers = headers
        self._body = body
        if status not in _BODILESS:
            headers.append((b"content-length", b"%d" % len(body)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def headers_of(request: Ask) -> dict[bytes, bytes]:
    """Give the request's headers by lower-case name; of a repeated one the last."""
    return dict(request.scope["headers"])
