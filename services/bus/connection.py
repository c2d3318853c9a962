"""One connection to NATS: requests, subscriptions, and replies of several messages.

The one rule: nothing is sent while the connection is down. The client would keep it and send it later,
long after its caller has been told that it failed.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from schemas.errors import DisconnectedError, OutcomeUnknownError, StorageFullError, TaskfoldError
from services.bus.client import Client, Take

__all__ = ["NO_RESPONDERS", "REQUEST_TIMEOUT_S", "ApiError", "Bus", "Msg", "accepted", "status"]

log = structlog.get_logger()

REQUEST_TIMEOUT_S: Final = 2.0
NO_RESPONDERS: Final = "503"
_STORAGE_ERRORS: Final = frozenset({10023, 10047, 10077})


class ApiError(TaskfoldError):
    """JetStream refused. ``code`` is its ``err_code``: branch on that alone, the rest is shared."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


class _Failure(msgspec.Struct, frozen=True):
    err_code: int = 0
    description: str = ""


class _Reply(msgspec.Struct, frozen=True):
    error: _Failure | None = None
    seq: int = 0
    duplicate: bool = False


_decode_reply: Final = msgspec.json.Decoder(_Reply).decode
_decode_json: Final = msgspec.json.Decoder().decode


class Bus:
    """A connection that comes back by itself. Methods raise DisconnectedError while it is away."""

    _client_of: type[Client] = Client

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._nc: Client | None = None
        self._handlers: dict[str, Take] = {}
        self._tokens = itertools.count()
        self._inbox = ""
        self._closing = False
        self._on_reconnect: list[Callable[[], None]] = []
        self.connected_since = float("inf")
        """When, on the loop's clock, the connection was last made; infinity while it is away."""

    @property
    def connected(self) -> bool:
        return self._nc is not None and self._nc.is_connected

    @property
    def max_payload(self) -> int:
        """How many bytes the server takes in one message; DisconnectedError while it is away."""
        return self.client().max_payload

    async def connect(self) -> None:
        """Connect, waiting for the server for as long as it takes."""
        loop = asyncio.get_running_loop()

        async def reconnected() -> None:
            self.connected_since = loop.time()
            log.info("nats.reconnected")
            for callback in self._on_reconnect:
                callback()

        async def disconnected() -> None:
            self.connected_since = float("inf")
            if not self._closing:
                log.warning("nats.disconnected")

        async def failed(error: Exception) -> None:
            log.debug("nats.error", error=repr(error))

        log.info("nats.connecting", url=self._url)
        nc = self._client_of()
        await nc.connect(
            self._url,
            name=self._name,
            connect_timeout=2,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]  # it is slept on, so a float does
            max_reconnect_attempts=-1,
            ping_interval=5,
            max_outstanding_pings=2,
            reconnected_cb=reconnected,
            disconnected_cb=disconnected,
            error_cb=failed,
        )
        self._inbox = nc.new_inbox()
        await nc.hand(f"{self._inbox}.*", self._dispatch)
        self._nc = nc
        self.connected_since = loop.time()

    async def close(self) -> None:
        """Send what is buffered and leave. Not ``drain``, which waits for pulls that never come back."""
        if self._nc is None:
            return
        self._closing = True
        try:
            if self._nc.is_connected:
                await self._nc.flush(timeout=2)
            await self._nc.close()
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.debug("nats.close", error=repr(error))

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self._on_reconnect.append(callback)

    def client(self) -> Client:
        """Give the connected client, or raise DisconnectedError."""
        if self._nc is None or not self._nc.is_connected:
            raise DisconnectedError("not connected to NATS")
        return self._nc

    async def request(
        self,
        subject: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Msg:
        """Ask and await one answer. OutcomeUnknownError when it was sent and none came in time.

        Not by the client's own way to ask, which costs a fifth more and in Python 3.11 may swallow a cancel
        that comes with the answer, so that who is cancelled in a loop of requests goes on for ever.
        """
        client = self.client()
        answered: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        def take(message: Msg) -> None:
            if not answered.done():
                answered.set_result(message)

        try:
            with self._answers(take) as inbox:
                await client.publish(subject, body, inbox, dict(headers) if headers else None)
                async with asyncio.timeout(timeout_s):
                    answer = await answered
        except TimeoutError:
            raise OutcomeUnknownError(f"no answer on {subject} within {timeout_s:g} s") from None
        except (nats.errors.Error, OSError) as error:
            raise OutcomeUnknownError(f"connection lost: {error!r}") from error
        if status(answer) == NO_RESPONDERS:
            raise DisconnectedError(f"nothing answers on {subject}")
        return answer

    async def publish(
        self, subject: str, body: bytes, headers: Mapping[str, str], timeout_s: float = REQUEST_TIMEOUT_S
    ) -> int:
        """Store a message and give its sequence; ApiError when JetStream refuses it."""
        answer = await self.request(subject, body, headers=headers, timeout_s=timeout_s)
        reply = _decode_reply(answer.data)
        if reply.error:
            raise _refusal(reply.error)
        return reply.seq

    async def api(self, subject: str, body: Any = None, timeout_s: float = 5.0) -> dict[str, Any]:
        """Call the JetStream API with JSON and give its JSON; ApiError when it refuses."""  # Any: JSON
        found: dict[str, Any] = _decode_json(await self.api_answer(subject, body, timeout_s))
        return found

    async def api_answer(self, subject: str, body: Any = None, timeout_s: float = 5.0) -> bytes:
        """Do the same and give the JSON as it came, for who knows its shape."""  # Any: JSON
        payload = b"" if body is None else msgspec.json.encode(body)
        return accepted(await self.request(f"$JS.API.{subject}", payload, timeout_s=timeout_s))

    async def send(
        self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Publish without an answer; it may be lost. Who gets it may answer to ``reply``."""
        await self.client().publish(subject, body, reply=reply, headers=dict(headers) if headers else None)

    async def subscribe(self, subject: str, take: Take) -> Subscription:
        """Have each message given to ``take`` in the moment in which it is read."""
        return await self.client().hand(subject, take)

    def new_inbox(self) -> str:
        """Give a reply subject of one's own; what a consumer sends there keeps its own subject."""
        return self.client().new_inbox()

    def _dispatch(self, message: Msg) -> None:
        if handler := self._handlers.get(message.subject):
            handler(message)

    async def gather(self, subject: str, body: bytes, timeout_s: float = REQUEST_TIMEOUT_S) -> list[Msg]:
        """Ask and collect answers until a message with a status ends them; 404 means none."""
        messages: list[Msg] = []
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def handle(message: Msg) -> None:
            if found := status(message):
                if not ended.done():
                    ended.set_result(found)
            else:
                messages.append(message)

        try:
            with self._answers(handle) as inbox:
                await self.client().publish(subject, body, reply=inbox)
                async with asyncio.timeout(timeout_s):
                    if await ended == NO_RESPONDERS:
                        raise DisconnectedError(f"nothing answers on {subject}")
        except TimeoutError:
            raise DisconnectedError(f"no answer on {subject} within {timeout_s:g} s") from None
        return messages

    @contextlib.contextmanager
    def _answers(self, handle: Take) -> Iterator[str]:
        """Give a reply subject whose messages are handled while the block runs."""
        inbox = f"{self._inbox}.{next(self._tokens)}"
        self._handlers[inbox] = handle
        try:
            yield inbox
        finally:
            del self._handlers[inbox]


def accepted(answer: Msg) -> bytes:
    """Give the JSON that the JetStream API answered; ApiError when it refuses."""
    if failure := _decode_reply(answer.data).error:
        raise _refusal(failure)
    return answer.data


def status(message: Msg) -> str | None:
    """Give the status of a control message (204, 404, 408 …), None for a message with content."""
    return message.headers.get("Status") if message.headers else None


def _refusal(failure: _Failure) -> TaskfoldError:
    if failure.err_code in _STORAGE_ERRORS:
        return StorageFullError(failure.description)
    return ApiError(failure.err_code, failure.description)
