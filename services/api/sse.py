"""Streams of events over HTTP, and the same events as JSON.

The one rule: a stream replays from the read model up to where the hub is and goes on from there, in one
step; it ends properly, after the last event or with a hint when to come again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import structlog
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Scope, Send

from schemas import event_filters, readmodel
from schemas.errors import Code, RejectedError
from schemas.filters import Filter
from schemas.ids import parse_batch_id, parse_task_id
from schemas.views import API
from services import process
from services.api import asking, frames, openapi, past
from services.api.answer import JSON, NO_CACHE, Answer, Ask, Headers, encode, headers_of
from services.api.frames import Reason
from services.api.hub import ENDLESS, Hub
from services.api.listeners import Client, Topic
from services.api.past import Moment, Past
from services.api.queries import ReadModel, ReadModelAwayError, Row
from services.api.reads import Reads
from services.api.shown_batches import Batches
from services.api.snapshots import ReplacedError, Snapshots
from services.api.windows import Window, Windows

log = structlog.get_logger()

_HEADERS: Final[Headers] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
_LAST_EVENT_ID: Final = "last_event_id"
_SNAPSHOT: Final = "snapshot"
_ANEW: Final = -1
"""Where a client was that wants to be shown what there is."""
_PAGE: Final = 500
_PIECE: Final = 64 * 1024
"""What is given to the socket at a time, so that no more than that waits there for a slow client."""


class Out(Protocol):
    """Send a piece of the body; ``more`` False ends it properly."""

    async def __call__(self, body: bytes, *, more: bool = True) -> None: ...


class Sources:
    """What streams are made from, the same for all."""

    def __init__(self, hub: Hub, model: ReadModel, reads: Reads) -> None:
        self.hub = hub
        self.model = model
        self.windows = Windows(model, hub)
        self.snapshots = Snapshots(model, hub, reads)


class EventStream:
    """One client's stream. ``after``: the sequence that it was given last, or _ANEW."""

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
        except (ReadModelAwayError, ReplacedError):
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
                await _give(out, window.rows)
        return False

    async def _lost(self) -> Reason | None:
        """Say why the client cannot go on from where it was, as far as that can be said at once."""
        if self._after == _ANEW:
            return Reason.ASKED
        return None if await self._sources.hub.reached(self._after) else Reason.UNKNOWN

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
        await _give(out, window.rows)
        return over

    async def _begin_anew(self, client: Client, out: Out, reason: Reason) -> int:
        """Show what there is, and give the sequence from which to go on."""
        standing = self._sources.snapshots.begin()
        log.info("sse.reset", reason=reason, after=self._after, sequence=standing.sequence)
        async for piece in self._sources.snapshots.show(self._topic, standing, reason):
            if client.closed:
                break
            await out(client.take() + piece)
        return standing.sequence


async def _give(out: Out, rows: Sequence[Row]) -> None:
    """Send rows, no more at a time than the socket should hold for a slow client."""
    piece: list[bytes] = []
    size = 0
    for row in rows:
        piece.append(frame := frames.event(row))
        size += len(frame)
        if size >= _PIECE:
            await out(b"".join(piece))
            piece, size = [], 0
    if piece:
        await out(b"".join(piece))


class EventRoutes:
    def __init__(
        self,
        hub: Hub,
        model: ReadModel,
        reads: Reads,
        batches: Batches,
        *,
        buffer_kib: int,
        coalesce_s: float,
    ) -> None:
        self._sources = Sources(hub, model, reads)
        self._hub = hub
        self._model = model
        self._reads = reads
        self._batches = batches
        self._past = Past(model)
        self._limit = buffer_kib * 1024
        self._coalesce_s = coalesce_s

    def handlers(self) -> list[HTTPRouteHandler]:
        return [
            get(f"{API}/tasks/{{task_id:str}}/events", opt=openapi.TASK_EVENTS)(self.of_task),
            get(f"{API}/batches/{{batch_id:str}}/events", opt=openapi.BATCH_EVENTS)(self.of_batch),
            get(f"{API}/events", opt=openapi.EVENTS)(self.of_all),
        ]

    async def of_task(self, request: Ask, task_id: FromPath[str]) -> ASGIApp:
        """Follow the events of one task."""
        checked = parse_task_id(task_id)
        query = asking.parameters(request.scope["query_string"], _LAST_EVENT_ID, *past.MEMBERS)
        after = _after(request, query)
        moment = await self._past.moment(query)
        if self._model.row(readmodel.TASK_STATUS, checked) is None:
            await self._reads.get(checked)  # known to the stream, or refused
        if moment:
            return await self._until(moment, request, Topic(task=checked), after or 0)
        return await self._answer(request, Topic(task=checked), after, 0)

    async def of_batch(self, request: Ask, batch_id: FromPath[str]) -> ASGIApp:
        """Follow the events of a batch's tasks."""
        checked = parse_batch_id(batch_id)
        after = _after(request, asking.parameters(request.scope["query_string"], _LAST_EVENT_ID))
        found = self._model.row(readmodel.BATCH_REACH, checked)
        if found is None:
            await self._batches.get(checked)  # known to the log, or refused
        chosen = event_filters.of(Filter(batch=checked))
        return await self._answer(
            request, Topic(chosen, batch=checked), after, found[0] - 1 if found else 0
        )

    async def of_all(self, request: Ask) -> ASGIApp:
        """Follow the events of all tasks, or of those that a filter means."""
        query = asking.parameters(request.scope["query_string"], _LAST_EVENT_ID, *event_filters.MEMBERS)
        topic = Topic(event_filters.parse(query))
        now = self._hub.position()  # refuses while the read model is away
        after = _after(request, query)
        if _wants_json(request):
            return await self._history(topic, after or 0)
        return self._stream(topic, now if after is None else after, self._coalesce_s)

    async def _answer(self, request: Ask, topic: Topic, after: int | None, first: int) -> ASGIApp:
        """Tell a story that has an end, from its beginning, which is after ``first``."""
        begin = after if after == _ANEW else max(after or 0, first)
        if _wants_json(request):
            return await self._history(topic, begin)
        if after is not None and self._sources.windows.over(topic, after) and after <= self._hub.position():
            return Answer(204, [NO_CACHE])
        return self._stream(topic, begin, self._coalesce_s if topic.batch else 0)

    def _stream(self, topic: Topic, after: int, coalesce_s: float) -> ASGIApp:
        return EventStream(self._sources, topic, after, coalesce_s=coalesce_s, limit=self._limit)

    async def _until(self, moment: Moment, request: Ask, topic: Topic, after: int) -> ASGIApp:
        """Tell a task's story up to a moment, which is over and is not followed."""
        if not _wants_json(request):
            detail = "a stream has no past; ask with Accept: application/json"
            raise RejectedError(Code.CONFLICTING_MEMBERS, detail, member="Accept")
        return await self._history(topic, after, moment.sequence)

    async def _history(self, topic: Topic, after: int, until: int = ENDLESS) -> ASGIApp:
        if after == _ANEW:
            raise _not_a_place()
        window = await self._sources.windows.far(topic, after, until, _PAGE)
        events = b",".join(row[3] for row in window.rows)
        following = None if window.whole else window.looked
        return Answer(200, [JSON, NO_CACHE], b'{"events":[%b],"next":%b}' % (events, encode(following)))


def _wants_json(request: Ask) -> bool:
    return asking.wants_json(headers_of(request).get(b"accept"))


def _after(request: Ask, query: Mapping[str, str]) -> int | None:
    """Read where the client was: the header, or the parameter for a client that cannot set one."""
    header = headers_of(request).get(b"last-event-id")
    text = header.decode("latin-1") if header else query.get(_LAST_EVENT_ID)
    if not text:
        return None
    return _ANEW if text == _SNAPSHOT else asking.whole_number(text, _LAST_EVENT_ID, 0, ENDLESS)


def _not_a_place() -> RejectedError:
    detail = f"{_LAST_EVENT_ID} is a sequence; a history has no snapshot"
    return RejectedError(Code.OUT_OF_RANGE, detail, member=_LAST_EVENT_ID)
