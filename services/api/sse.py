"""The routes of events: streams of them, and the same events as JSON.

The one rule: whoever follows, comes back or reads the history is given the same events.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from schemas import event_filters, readmodel
from schemas.errors import Code, RejectedError
from schemas.filters import Filter
from schemas.ids import parse_batch_id, parse_task_id
from schemas.views import API
from services.api import asking, openapi, past
from services.api.answer import JSON, NO_CACHE, Answer, Ask, encode, headers_of
from services.api.following import ANEW, EventStream, Sources
from services.api.hub import ENDLESS, Hub
from services.api.listeners import Topic
from services.api.past import Moment, Past
from services.api.queries import ReadModel
from services.api.reads import Reads
from services.api.shown_batches import Batches

_LAST_EVENT_ID: Final = "last_event_id"
_SNAPSHOT: Final = "snapshot"
_PAGE: Final = 500


class EventRoutes:
    def __init__(
        self,
        hub: Hub,
        model: ReadModel,
        reads: Reads,
        batches: Batches,
        newest: Callable[[], Awaitable[int]],
        *,
        buffer_kib: int,
        coalesce_s: float,
    ) -> None:
        self._sources = Sources(hub, model, reads, newest)
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
        first = self._hub.position()  # what is not known by now begins after that
        if found := self._model.row(readmodel.BATCH_REACH, checked):
            first = found[0] - 1
        else:
            await self._batches.get(checked)  # known to the log, or refused
        topic = Topic(event_filters.of(Filter(batch=checked)), batch=checked)
        return await self._answer(request, topic, after, first)

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
        begin = after if after == ANEW else max(after or 0, first)
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
        if after == ANEW:
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
    return ANEW if text == _SNAPSHOT else asking.whole_number(text, _LAST_EVENT_ID, 0, ENDLESS)


def _not_a_place() -> RejectedError:
    detail = f"{_LAST_EVENT_ID} is a sequence; a history has no snapshot"
    return RejectedError(Code.OUT_OF_RANGE, detail, member=_LAST_EVENT_ID)
