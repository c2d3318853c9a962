"""The shared HTTP edge of the adapters: an exchange with a backend is a Reply or a Broken.

The one rule: no answer is trusted. Redirects are not followed, bodies are not decompressed, and no more
than MAX_RESPONSE_BYTES of them is read.
"""

import asyncio
import base64
import errno
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from schemas.registry import Backend
from services.dispatcher.backends.base import MAX_RESPONSE_BYTES
from services.dispatcher.backends.classify import Broken, Reply, Trouble

CONNECT_TIMEOUT_S: Final = 3.0
_CHUNK: Final = 256 * 1024
_CLOSE_TIMEOUT_S: Final = 0.5


class Upload(Struct, frozen=True):
    """A body that is streamed: exactly ``size`` bytes."""

    chunks: AsyncIterator[bytes]
    size: int
    content_type: str


def session() -> aiohttp.ClientSession:
    """Open the one session of a process. Every request has its own connection.

    A kept one may be closing as a job is sent over it (uvicorn closes after an error without saying so),
    and then nobody knows whether the job runs; sd-server also spends a thread on each one it keeps.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=_timeout(CONNECT_TIMEOUT_S),
        headers={"Accept-Encoding": "identity", "User-Agent": "taskfold"},
        auto_decompress=False,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=(_no_redirect,),
    )


async def _no_redirect(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep to the rule where aiohttp cannot be told to: when a websocket is opened."""
    response = await handler(request)
    if "Upgrade" in request.headers and response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        response.close()
        raise aiohttp.ClientConnectionError(f"HTTP {response.status} in place of a websocket")
    return response


class Endpoint:
    """One backend's address and key. Without ``timeout_s`` an answer is waited for without end."""

    def __init__(self, session: aiohttp.ClientSession, backend: Backend) -> None:
        self._session = session
        self._url = backend.url
        self._headers = {"Authorization": _credentials(backend.api_key)} if backend.api_key else {}

    async def get(self, path: str, timeout_s: float | None = None) -> Reply | Broken:
        return await self._exchange("GET", f"{self._url}{path}", {}, None, timeout_s)

    async def post(self, path: str, body: object, timeout_s: float | None = None) -> Reply | Broken:
        """Send the JSON of ``body``."""
        headers = {"Content-Type": "application/json"}
        return await self._exchange(
            "POST", f"{self._url}{path}", headers, msgspec.json.encode(body), timeout_s
        )

    async def upload(self, path: str, upload: Upload) -> Reply | Broken:
        headers = {"Content-Type": upload.content_type, "Content-Length": str(upload.size)}
        return await self._exchange("POST", f"{self._url}{path}", headers, upload.chunks, None)

    async def websocket(self, path: str, timeout_s: float) -> aiohttp.ClientWebSocketResponse | None:
        """Open one; None where that does not succeed within ``timeout_s``, for whatever reason."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._session.ws_connect(
                    f"{self._url}{path}",
                    headers=self._headers,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
                )
        except (aiohttp.ClientError, OSError, ValueError):
            return None

    async def fetch(self, reference: str, timeout_s: float) -> Reply | Broken:
        """Get a result by the url in an answer; no other origin than the backend's own is ever asked."""
        try:
            base = URL(f"{self._url}/")
            target = base.join(URL(reference))
            foreign = target.origin() != base.origin()
        except ValueError as error:
            return Broken(Trouble.UNUSABLE_URL, f"the result's address: {error}")
        if foreign:
            return Broken(Trouble.UNUSABLE_URL, "the result lies on another host, which is not asked")
        return await self._exchange("GET", str(target), {}, None, timeout_s)

    async def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes | AsyncIterator[bytes] | None,
        timeout_s: float | None,
    ) -> Reply | Broken:
        # With a bound on the whole, half of it for the connection, or "not there" would look like "busy".
        connect_s = CONNECT_TIMEOUT_S if timeout_s is None else min(CONNECT_TIMEOUT_S, timeout_s / 2)
        options: dict[str, Any] = {  # Any: keyword arguments of aiohttp
            "headers": {**self._headers, **headers},
            "data": data,
            "timeout": _timeout(connect_s),
            "allow_redirects": False,
        }
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(method, url, **options) as response,
            ):
                return await _read(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Broken(_trouble(error), f"{type(error).__name__}: {error}"[:500])


def _credentials(api_key: str) -> str:
    """Give a key as a Bearer token; one that has a colon is ``user:password``, for HTTP Basic."""
    if ":" in api_key:
        return f"Basic {base64.b64encode(api_key.encode()).decode()}"
    return f"Bearer {api_key}"


async def _read(response: aiohttp.ClientResponse) -> Reply | Broken:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            response.close()
            return Broken(Trouble.TOO_LARGE, f"the answer is longer than {MAX_RESPONSE_BYTES} bytes")
    return Reply(response.status, bytes(body), response.headers.get("Retry-After"))


def _trouble(error: Exception) -> Trouble:
    """Tell the ways apart in which an exchange breaks; what comes first is the narrower class."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Trouble.UNREACHABLE
    if isinstance(error, aiohttp.ClientConnectorError):
        return Trouble.REFUSED if error.errno == errno.ECONNREFUSED else Trouble.UNREACHABLE
    if isinstance(error, TimeoutError):
        return Trouble.SILENT
    if isinstance(error, ValueError):
        return Trouble.UNUSABLE_URL
    return Trouble.LOST


def _timeout(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect_s)
