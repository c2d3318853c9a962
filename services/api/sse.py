"""Streams of events over HTTP, and the same events as JSON.

The one rule: a stream replays from the read model up to where the hub is and goes on from there, in one
step; it ends properly, after the last event or with a hint when to come again.
"""

import asyncio
from typing import Final, Protocol

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Scope, Send

from schemas import readmodel
from schemas.ids import TaskId, parse_task_id
from schemas.task import FINAL
from schemas.views import API
from services import process
from services.api import asking, openapi
from services.api.answer import JSON, NO_CACHE, Answer, Ask, Headers, encode, headers_of
from services.api.hub import ALL, ENDLESS, FINAL_TYPES, PAGE, Client, Hub, event_frame
from services.api.queries import ReadModel, ReadModelAwayError, Row
from services.api.reads import Reads

_HEADERS: Final[Headers] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
_HELLO: Final = b"retry: 2000\n\n"
_BYE: Final = b"retry: 1000\n\n"
_LAST_EVENT_ID: Final = "last_event_id"


class Out(Protocol):
    """Send a piece of the body; ``more`` False ends it properly."""

    async def __call__(self, body: bytes, *, more: bool = True) -> None: ...


class EventStream:
    """One client's stream. ``after`` None: from now on."""

    __slots__ = ("_after", "_coalesce_s", "_hub", "_limit", "_model", "_topic")

    def __init__(
        self, hub: Hub, model: ReadModel, topic: str, after: int | None, *, coalesce_s: float, limit: int
    ) -> None:
        self._hub = hub
        self._model = model
        self._topic = topic
        self._after = after
        self._coalesce_s = coalesce_s
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        client = Client(self._limit)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            client.close("gone")

        async def out(body: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            async with process.background(watch()):
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                await out(_HELLO)
                await self._run(client, out)
        except asyncio.CancelledError:
            if client.closed != "slow":
                raise
            if (task := asyncio.current_task()) is not None:
                task.uncancel()  # it was ours; returning without an end lets the server cut the line
        finally:
            self._hub.drop(self._topic, client)

    async def _run(self, client: Client, out: Out) -> None:
        try:
            over = await self._replay(client, out)
        except ReadModelAwayError:
            await out(_BYE, more=False)
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
            await out(client.take() + (_BYE if client.closed else b""), more=not last)
            if last:
                return

    async def _replay(self, client: Client, out: Out) -> bool:
        """Send what there is already, then listen; True when nothing can follow."""
        position = self._hub.position()
        cursor = position if self._after is None else self._after
        over = False
        while not client.closed:
            rows = self._page(cursor)
            cursor = rows[-1][0] if rows else cursor
            over = over or any(kind in FINAL_TYPES for _, _, kind, *_ in rows)
            whole = len(rows) < PAGE
            if whole:
                over = over or self._finished(cursor)
                client.seen = cursor
                if not over:
                    self._hub.add(self._topic, client)
                if self._hub.closing:
                    client.close("shutdown")
            if rows:
                await out(b"".join(map(event_frame, rows)))
            if whole:
                break
        return over

    def _page(self, after: int) -> list[Row]:
        position = self._hub.position()
        if self._topic == ALL:
            return self._model.rows(readmodel.EVENTS_BETWEEN, after, position, PAGE)
        return self._model.rows(readmodel.EVENTS_OF_TASK, self._topic, after, position, PAGE)

    def _finished(self, cursor: int) -> bool:
        return self._topic != ALL and finished_at(self._model, TaskId(self._topic)) <= cursor


def finished_at(model: ReadModel, task_id: TaskId) -> int:
    """Give the sequence of a finished task's last event, more than any other while it goes on."""
    row = model.row(readmodel.TASK_STATUS, task_id)
    return row[1] if row and row[0] in FINAL else ENDLESS


class EventRoutes:
    def __init__(
        self, hub: Hub, model: ReadModel, reads: Reads, *, buffer_kib: int, coalesce_s: float
    ) -> None:
        self._hub = hub
        self._model = model
        self._reads = reads
        self._limit = buffer_kib * 1024
        self._coalesce_s = coalesce_s

    def handlers(self) -> list[HTTPRouteHandler]:
        return [
            get(f"{API}/tasks/{{task_id:str}}/events", opt=openapi.TASK_EVENTS)(self.of_task),
            get(f"{API}/events", opt=openapi.EVENTS)(self.of_all),
        ]

    async def of_task(self, request: Ask, task_id: FromPath[str]) -> ASGIApp:
        """Follow the events of one task."""
        checked = parse_task_id(task_id)
        after = _after(request)
        if self._model.row(readmodel.TASK_STATUS, checked) is None:
            await self._reads.get(checked)  # known to the stream, or refused
        if asking.wants_json(headers_of(request).get(b"accept")):
            return await self._history(readmodel.EVENTS_OF_TASK, [checked, after or 0, ENDLESS])
        if after is not None and finished_at(self._model, checked) <= after:
            return Answer(204, [NO_CACHE])
        return EventStream(self._hub, self._model, checked, after or 0, coalesce_s=0, limit=self._limit)

    async def of_all(self, request: Ask) -> ASGIApp:
        """Follow the events of all tasks."""
        after = _after(request)
        if asking.wants_json(headers_of(request).get(b"accept")):
            return await self._history(readmodel.EVENTS_BETWEEN, [after or 0, ENDLESS])
        self._hub.position()  # refuses while the read model is away
        return EventStream(
            self._hub, self._model, ALL, after, coalesce_s=self._coalesce_s, limit=self._limit
        )

    async def _history(self, sql: str, parameters: list[str | int]) -> ASGIApp:
        rows = await self._model.page(sql, [*parameters, PAGE + 1])
        shown = rows[:PAGE]
        following = shown[-1][0] if len(rows) > PAGE else None
        events = b",".join(wire for _, _, _, wire, *_ in shown)
        return Answer(200, [JSON, NO_CACHE], b'{"events":[%b],"next":%b}' % (events, encode(following)))


def _after(request: Ask) -> int | None:
    """Read where the client was: the header, or the parameter for a client that cannot set one."""
    query = asking.parameters(request.scope["query_string"], _LAST_EVENT_ID)
    header = headers_of(request).get(b"last-event-id")
    text = header.decode("latin-1") if header else query.get(_LAST_EVENT_ID)
    if not text:
        return None
    return asking.whole_number(text, _LAST_EVENT_ID, 0, ENDLESS)
