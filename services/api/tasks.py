"""Routes that show tasks and cancel them.

The one rule: the document of a task is the same bytes wherever it is shown.
"""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from litestar import delete, post, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp
from msgspec import Meta, Struct

from schemas import filters, intake, readmodel, views
from schemas.checking import check
from schemas.counts import Counts, KindCounts
from schemas.errors import Code, RejectedError
from schemas.ids import TaskId, parse_task_id
from schemas.requests import Kind
from schemas.task import Status
from schemas.views import API
from services.api import asking, openapi, past, upto
from services.api.answer import JSON, NO_CACHE, READ, Answer, Ask, Headers, encode, headers_of
from services.api.cancelling import Canceller
from services.api.lists import Lists
from services.api.past import Past
from services.api.queries import ReadModel
from services.api.reads import Reads, Shown

DEFAULT_LIMIT: Final = 50
MOST: Final = 200
BY_CLIENT: Final = "client"
_EVERY_TENANT: Final = "*"
_RETRY_AFTER: Final = (b"retry-after", b"1")


class CancelBody(Struct, frozen=True):
    reason: Annotated[str, Meta(max_length=1000)] | None = None


class _Outcome(Struct, frozen=True):
    """What ``result`` needs to know of a document."""

    status: Status
    result_url: str | None


_decode_outcome: Final = msgspec.json.Decoder(_Outcome).decode


class TaskRoutes:
    def __init__(self, reads: Reads, model: ReadModel, canceller: Canceller, past: Past) -> None:
        self._past = past
        self._reads = reads
        self._model = model
        self._lists = Lists(model)
        self._canceller = canceller

    def handlers(self) -> list[HTTPRouteHandler]:
        one = f"{API}/tasks/{{task_id:str}}"
        return [
            route(f"{API}/tasks", http_method=READ, opt=openapi.LIST)(self.tasks),
            route(f"{API}/tasks/counts", http_method=READ, opt=openapi.COUNTS)(self.counts),
            route(one, http_method=READ, opt=openapi.TASK)(self.task),
            route(f"{one}/result", http_method=READ, opt=openapi.RESULT)(self.result),
            post(f"{one}/cancel", status_code=200, opt=openapi.CANCEL)(self.cancel),
            delete(one, status_code=200, opt=openapi.DELETE)(self.delete),
        ]

    async def task(self, request: Ask, task_id: FromPath[str]) -> ASGIApp:
        """Show a task, as it is or as it was."""
        query = asking.parameters(request.scope["query_string"], "wait", *past.MEMBERS)
        return await self._show(request, parse_task_id(task_id), query)

    async def tasks(self, request: Ask) -> ASGIApp:
        """List tasks, newest first, or show the one that task_id names."""
        raw = request.scope["query_string"]
        if b"task_id" in raw:
            query = asking.parameters(raw, "task_id", "wait", *past.MEMBERS)
            return await self._show(request, parse_task_id(query.get("task_id", "")), query)
        query = asking.parameters(raw, "task_id", "limit", "cursor", *filters.MEMBERS)
        limit = asking.whole_number(query.get("limit", str(DEFAULT_LIMIT)), "limit", 1, MOST)
        page = await self._lists.page(filters.parse(query), query.get("cursor"), limit)
        documents = b",".join(await self._reads.listed(page.rows))
        ways = (documents, encode(page.next), encode(page.prev))
        headers = [JSON, NO_CACHE]
        if links := page.links(f"{API}/tasks", query):
            headers.append((b"link", links.encode()))
        return Answer(200, headers, b'{"tasks":[%b],"next":%b,"prev":%b}' % ways)

    async def counts(self, request: Ask) -> ASGIApp:
        """Count the tasks in each status."""
        query = asking.parameters(request.scope["query_string"], "kind", "tenant")
        chosen = filters.parse(query)
        kinds = (chosen.kind,) if chosen.kind else tuple(Kind)
        rows = self._model.rows(readmodel.COUNTS, encode(kinds), chosen.tenant or _EVERY_TENANT)
        numbers: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
        for _, kind, status, n in rows:
            if kind is not None:
                numbers[kind][status.lower()] = n
        counts = tuple(KindCounts(kind=kind, **found) for kind, found in numbers.items())
        return Answer(200, [JSON, NO_CACHE], encode(Counts(counts, rows[0][0])))

    async def _show(self, request: Ask, task_id: TaskId, query: Mapping[str, str]) -> ASGIApp:
        wait_s = asking.wait_s(query.get("wait"))
        if moment := await self._past.moment(query):
            if wait_s is not None:
                raise RejectedError(Code.CONFLICTING_MEMBERS, "the past does not change", member="wait")
            return Answer(200, [JSON, NO_CACHE], self._past.task(task_id, moment))
        known = headers_of(request).get(b"if-none-match")
        if wait_s is None:
            return answer_with(await self._reads.get(task_id, upto.wanted(request)), known)

        def enough(shown: Shown) -> bool:
            return shown.final if known is None else shown.news(known)

        return answer_with(await self._reads.until(task_id, enough, wait_s), known)

    async def result(self, request: Ask, task_id: FromPath[str]) -> ASGIApp:
        """Go to the result of a task."""
        asking.parameters(request.scope["query_string"])
        shown = await self._reads.get(parse_task_id(task_id), upto.wanted(request))
        return Answer(303, [(b"location", _result_url(shown).encode()), NO_CACHE])

    async def cancel(self, request: Ask, task_id: FromPath[str]) -> ASGIApp:
        """Cancel a task."""
        return await self._cancel(request, task_id)

    async def delete(self, request: Ask, task_id: FromPath[str]) -> ASGIApp:
        """Cancel a task, the same as cancel."""
        return await self._cancel(request, task_id)

    async def _cancel(self, request: Ask, task_id: str) -> ASGIApp:
        asking.parameters(request.scope["query_string"])
        checked = parse_task_id(task_id)
        content = await request.body()
        body = check(CancelBody, intake.read_json(content)) if content else CancelBody()
        outcome = await self._canceller.cancel(checked, BY_CLIENT, body.reason)
        headers = [JSON, (upto.HEADER, b"%d" % outcome.sequence)]
        return Answer(200, headers, encode(views.Cancelled(checked, outcome.name)))


def answer_with(shown: Shown, known: bytes | None = None, more: Headers | None = None) -> Answer:
    """Show a document, or say that the client has it already."""
    etag = shown.etag
    headers = [JSON, (b"etag", etag), NO_CACHE, *(more or ())]
    if not shown.final:
        headers.append(_RETRY_AFTER)
    if known is not None and asking.matches(known, etag):
        return Answer(304, headers[1:])
    return Answer(200, headers, shown.body)


def _result_url(shown: Shown) -> str:
    outcome = _decode_outcome(shown.body)
    if not shown.final:
        raise RejectedError(Code.NOT_FINISHED, f"the task is {outcome.status}; it has no result yet")
    if outcome.status is not Status.DONE:
        raise RejectedError(Code.NO_RESULT, f"the task is {outcome.status}; there is no result")
    if outcome.result_url is None:
        raise RejectedError(Code.EXPIRED_ARTIFACT, "the result has been removed")
    return outcome.result_url
