"""One client of the REST api: calls, and streams that go on where they broke off.

The one rule: whatever goes wrong is an EndError, which carries its exit code and its line.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Struct

from services.cli.failures import AwayError, EndError, Exit, refusal, unreachable
from services.cli.frames import Frame, Frames

API: Final = "/api/v1"
JSON: Final = "application/json"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=120)
_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 5.0
_GOOD: Final = 400
_RESET: Final = "reset"
_STANDS: Final = frozenset({"task.snapshot", "snapshot"})
"""What follows a reset: how things stand, where what happened until then is gone."""

Json = dict[str, Any]  # Any: JSON of the api
Fields = Mapping[str, str]


def task_path(task_id: str, rest: str = "") -> str:
    """Give the path of a task, or of what is under it; whatever was typed stays one part of it."""
    return f"{API}/tasks/{quote(task_id, safe='')}{rest}"


class Upload(Struct, frozen=True):
    """A recording and the members that go with it, for a form."""

    name: str
    content: bytes
    fields: dict[str, str]


class Api:
    """``lost`` is told when a stream breaks off, ``found`` when it goes on, ``gone`` with a gap in it."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        lost: Callable[[], None],
        found: Callable[[], None],
        gone: Callable[[], None],
    ) -> None:
        self._session = session
        self.url = url.rstrip("/")
        self._lost = lost
        self._found = found
        self._gone = gone

    async def get(self, path: str, query: Fields | None = None, accept: str = JSON) -> bytes:
        return await self._call("GET", path, headers={"accept": accept}, params=dict(query or {}))

    async def json(self, path: str, query: Fields | None = None) -> Json:
        return self.decoded(await self.get(path, query))

    async def post(self, path: str, body: Json, headers: Fields | None = None) -> bytes:
        """Send JSON; not sent again by itself, since that could be twice."""
        return await self._send("POST", path, body, headers)

    async def patch(self, path: str, body: Json) -> bytes:
        return await self._send("PATCH", path, body)

    async def delete(self, path: str) -> bytes:
        return await self._call("DELETE", path)

    async def _send(self, method: str, path: str, body: Json, headers: Fields | None = None) -> bytes:
        kind = {"content-type": JSON, **(headers or {})}
        try:
            content = msgspec.json.encode(body)
        except UnicodeEncodeError:
            raise EndError(Exit.USAGE, "the request is not UTF-8 text") from None
        return await self._call(method, path, data=content, headers=kind)

    async def upload(self, path: str, form: Upload, headers: Fields) -> bytes:
        data = aiohttp.FormData()
        for name, value in form.fields.items():
            data.add_field(name, value)
        data.add_field("file", form.content, filename=form.name, content_type="application/octet-stream")
        return await self._call("POST", path, data=data, headers=dict(headers))

    def decoded(self, body: bytes) -> Json:
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise EndError(
                Exit.REFUSED, f"{self.url} is no taskfold api; check --url or TASKFOLD_URL"
            ) from None

    async def follow(self, path: str, after: int | None = None) -> AsyncGenerator[Frame, None]:
        """Give a stream's events, all that there still are, reconnecting for as long as it takes.

        Ends where the api says that nothing follows. AwayError only if it cannot be reached at first.
        """
        headers = {"accept": "text/event-stream"}
        if after is not None:
            headers["last-event-id"] = str(after)
        wait_s, connected = _FIRST_WAIT_S, False
        while True:
            try:
                async with self._session.get(self._address(path), headers=headers) as answer:
                    if await self._over(answer):
                        return
                    connected, wait_s = True, _FIRST_WAIT_S
                    self._found()
                    async for frame in _frames(answer):
                        if frame.id:
                            headers["last-event-id"] = frame.id
                        if frame.event == _RESET:
                            self._gone()
                        elif frame.event not in _STANDS:
                            yield frame
            except (aiohttp.ClientError, TimeoutError, OSError, AwayError) as error:
                if not connected:
                    raise _away(self.url, error) from None
                self._lost()
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    async def _over(self, answer: aiohttp.ClientResponse) -> bool:
        if answer.status >= _GOOD:
            raise refusal(answer.status, await answer.read(), self.url)
        return answer.status == 204  # noqa: PLR2004 - HTTP's "no content"

    def _address(self, path: str) -> str:
        return f"{self.url}{path}"

    async def _call(self, method: str, path: str, **how: Any) -> bytes:  # Any: aiohttp's own
        try:
            async with self._session.request(method, self._address(path), **how) as answer:
                body = await answer.read()
                if answer.status >= _GOOD:
                    raise refusal(answer.status, body, self.url)
                return body
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _away(self.url, error) from None
        except ValueError as error:  # as a line break in a header
            raise EndError(Exit.USAGE, f"the request cannot be sent: {error}") from None


@contextlib.asynccontextmanager
async def connected(url: str, say: Callable[[str], None]) -> AsyncIterator[Api]:
    """Open a client; ``say`` is given a line when a stream breaks off, once for each time, or has a gap."""
    told = False

    def lost() -> None:
        nonlocal told
        if not told:
            say(f"lost the connection to {url}; trying again until it is back")
        told = True

    def found() -> None:
        nonlocal told
        told = False

    def gone() -> None:
        say("some of what happened meanwhile is gone; going on from now")

    connector = aiohttp.TCPConnector(limit=0)  # a stream for each task that is watched
    async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
        yield Api(session, url, lost, found, gone)


async def _frames(answer: aiohttp.ClientResponse) -> AsyncIterator[Frame]:
    frames = Frames()
    async for chunk in answer.content.iter_any():
        for frame in frames.feed(chunk):
            yield frame


def _away(url: str, error: Exception) -> EndError:
    """Say why there is no answer."""
    if isinstance(error, EndError):
        return error
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return EndError(Exit.USAGE, f"{url} is no address; --url is like http://127.0.0.1:8080")
    if isinstance(error, TimeoutError):
        return unreachable(url, "no answer in time")
    number = getattr(error, "errno", None) or 0
    return unreachable(url, os.strerror(number) if number > 0 else str(error) or type(error).__name__)
