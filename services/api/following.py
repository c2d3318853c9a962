"""One client's stream of events, from where it was to its end.

The one rule: it replays from the read model up to where the hub is and goes on from there, in one step; it
ends properly, after the last event or with a hint when to come again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

import structlog
from litestar.types import Receive, Scope, Send

from schemas.errors import UnavailableError
from services import process
from services.api import frames
from services.api.answer import Headers
from services.api.frames import Reason
from services.api.hub import Hub
from services.api.listeners import Client, Topic
from services.api.queries import ReadModel
from services.api.reads import Reads
from services.api.snapshots import ReplacedError, Snapshots
from services.api.windows import Window, Windows

log = structlog.get_logger()

ANEW: Final = -1
"""Where a client was that wants to be shown what there is."""
_HEADERS: Final[Headers] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
_PIECE: Final = 64 * 1024
"""What is given to the socket at a time, so that no more than that waits there for a slow client."""


class Out(Protocol):
    """Send a piece of the body; ``more`` False ends it properly."""

    async def __call__(self, body: bytes, *, more: bool = True) -> None: ...


class Sources:
    """What streams are made from, the same for all.

    ``newest``: ask for the sequence of the log's last event; UnavailableError where it is not known.
    """

    def __init__(
        self, hub: Hub, model: ReadModel, reads: Reads, newest: Callable[[], Awaitable[int]]
    ) -> None:
        self.hub = hub
        self.model = model
        self.newest = newest
        self.windows = Windows(model, hub)
        self.snapshots = Snapshots(model, hub, reads)


class EventStream:
    """One client's stream. ``after``: the sequence that it was given last, or ANEW."""

    __slots__ = ("_after", "_coalesce_s", "_limit", "_sources", "_topic")

    def __init__(
        self, sources: Sources, topic: Topic, after: int, *, coalesce_s: float, limit: int
    ) -> None:
        self._sources = sources
        self._topic = topic
        self._after = after
        self._coalesce_s = coalesce_s
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        client = Client(self._limit)
        hub = self._sources.hub

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            client.close("gone")

        async def out(body: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            hub.open(client)
            async with process.background(watch()):
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                await out(frames.HELLO)
                await self._run(client, out)
        except asyncio.CancelledError:
            if client.closed != "slow":
                raise
            if (task := asyncio.current_task()) is not None:
                task.uncancel()  # it was ours; returning without an end lets the server cut the line
        finally:
            hub.drop(self._topic, client)

    async def _run(self, client: Client, out: Out) -> None:
        try:
            over = await self._replay(client, out)
        except (UnavailableError, ReplacedError):
            await out(frames.BYE, more=False)
            return
        if over:
            await out(b"", more=False)
            return
        while True:
            await client.wait()
            if self._coalesce_s and not client.closed:
                await asyncio.sleep(self._coalesce_s)
            if client.closed == "gone":
                return
            last = client.ended or client.closed is not None
            await out(client.take() + (frames.BYE if client.closed else b""), more=not last)
            if last:
                return

    async def _replay(self, client: Client, out: Out) -> bool:
        """Send what there is already, then listen; True when nothing can follow."""
        windows, topic = self._sources.windows, self._topic
        cursor, reason = self._after, await self._lost()
        while not client.closed:
            if reason is not None:
                cursor, reason = await self._begin_anew(client, out, reason), None
            if client.buffer:
                await out(client.take())  # signs of life; nothing else comes before the client is added
            near = windows.near(topic, cursor)
            window = near or await self._far(cursor)
            if windows.gone(topic, cursor):
                reason = Reason.RETENTION
            elif near is not None and near.whole:
                return await self._join(client, out, near)
            else:
                cursor = window.looked
                await _give(out, map(frames.event, window.rows))
        return False

    async def _lost(self) -> Reason | None:
        """Say why the client cannot go on from where it was, as far as that can be said at once."""
        if self._after == ANEW:
            return Reason.ASKED
        if await self._sources.hub.reached(self._after) or self._after <= await self._sources.newest():
            return None  # this replica gets there, and until then there is nothing to tell
        return Reason.UNKNOWN

    async def _far(self, cursor: int) -> Window:
        """Read on, up to where the hub is; nothing where the file was replaced meanwhile."""
        position, generation = self._sources.hub.position(), self._sources.model.generation
        window = await self._sources.windows.far(self._topic, cursor, position)
        return window if self._sources.model.still(generation) else Window([], cursor, whole=False)

    async def _join(self, client: Client, out: Out, window: Window) -> bool:
        """Listen from now on, in one step with the read of the window, and send it."""
        client.seen = window.looked
        over = self._sources.windows.over(self._topic, window.looked)
        if not over:
            self._sources.hub.add(self._topic, client)
        await _give(out, map(frames.event, window.rows))
        return over

    async def _begin_anew(self, client: Client, out: Out, reason: Reason) -> int:
        """Show what there is, and give the sequence from which to go on."""
        standing = self._sources.snapshots.begin()
        log.info("sse.reset", reason=reason, after=self._after, sequence=standing.sequence)
        async for shown in self._sources.snapshots.show(self._topic, standing, reason):
            if client.closed:
                break
            await _give(out, [client.take(), *shown])
        return standing.sequence


async def _give(out: Out, told: Iterable[bytes]) -> None:
    """Send frames, no more at a time than the socket should hold for a slow client."""
    piece: list[bytes] = []
    size = 0
    for frame in told:
        piece.append(frame)
        size += len(frame)
        if size >= _PIECE:
            await out(b"".join(piece))
            piece, size = [], 0
    if piece:
        await out(b"".join(piece))
