"""Routes for tasks that are submitted together, looked at and cancelled as one.

The one rule: all or nothing. Every task is checked as if it came alone, and then either all are stored or
none is.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from litestar import post, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from schemas import batches, intake
from schemas.batches import BatchView
from schemas.checking import check
from schemas.errors import RejectedError
from schemas.filters import Filter
from schemas.ids import BatchId, batch_task_id, derived_batch_id, parse_batch_id
from schemas.intake import Intake
from schemas.requests import InBatch
from schemas.views import API
from services.api import asking, bodies, openapi, upto
from services.api.answer import JSON, NO_CACHE, READ, Answer, Ask, encode, headers_of
from services.api.cancelling_many import ManyCanceller
from services.api.shown_batches import Batches
from services.api.submit import Receipt, Submitter, Wish, of_task
from services.api.tasks import BY_CLIENT, CancelBody

_MIB: Final = 1024 * 1024
_RETRY_AFTER: Final = (b"retry-after", b"1")
_KEY: Final = b"idempotency-key"
_BREATHE_AFTER: Final = 50


class BatchRoutes:
    def __init__(
        self,
        submitter: Submitter,
        shown: Batches,
        canceller: ManyCanceller,
        new_batch_id: Callable[[], BatchId],
        *,
        trust_tenant: bool,
    ) -> None:
        self._submitter = submitter
        self._shown = shown
        self._canceller = canceller
        self._new_batch_id = new_batch_id
        self._trust_tenant = trust_tenant

    def handlers(self) -> list[HTTPRouteHandler]:
        one = f"{API}/batches/{{batch_id:str}}"
        return [
            post(
                f"{API}/tasks/batch",
                status_code=202,
                opt={**openapi.CREATE_BATCH, "max_upload_mib": intake.MAX_TOGETHER_MIB},
                request_max_body_size=intake.MAX_TOGETHER_MIB * _MIB,
            )(self.create),
            route(one, http_method=READ, opt=openapi.BATCH)(self.batch),
            post(f"{one}/cancel", status_code=200, opt=openapi.CANCEL_BATCH)(self.cancel),
        ]

    async def create(self, request: Ask) -> ASGIApp:
        """Ask for many tasks at once, all or none."""
        asking.parameters(request.scope["query_string"])
        headers = headers_of(request)
        tenant = asking.tenant(headers.get(b"taskfold-tenant"), trusted=self._trust_tenant)
        key = asking.idempotency_key(headers.get(_KEY))
        if key is None:
            self._submitter.ready()
        checked = await _checked(intake.together(await bodies.content(request)))
        batch_id = self._new_batch_id() if key is None else derived_batch_id(tenant, key)
        fingerprint = await _fingerprint(checked)
        wishes = [
            Wish(
                task_id=batch_task_id(batch_id, place),
                intake=one,
                fingerprint=fingerprint,
                tenant=tenant,
                named=key is not None,
                traceparent=asking.traceparent(headers.get(b"traceparent")),
                prefix="request.",
                batch=InBatch(batch_id=batch_id, size=len(checked), place=place),
            )
            for place, one in enumerate(checked)
        ]
        return _accepted(batch_id, wishes, await self._submitter.submit_all(wishes))

    async def batch(self, request: Ask, batch_id: FromPath[str]) -> ASGIApp:
        """Show a batch: how many of its tasks are in which status."""
        checked = parse_batch_id(batch_id)
        query = asking.parameters(request.scope["query_string"], "wait")
        wait_s, seen = asking.wait_s(query.get("wait")), upto.wanted(request)
        known = headers_of(request).get(b"if-none-match")
        if wait_s is None:
            return _answer(await self._shown.get(checked, seen), known)

        def enough(shown: BatchView) -> bool:
            if known is None:
                return shown.finished_at is not None
            return not asking.matches(known, _etag(shown))

        return _answer(await self._shown.until(checked, enough, wait_s, seen), known)

    async def cancel(self, request: Ask, batch_id: FromPath[str]) -> ASGIApp:
        """Cancel all tasks of a batch that have not ended."""
        checked = parse_batch_id(batch_id)
        asking.parameters(request.scope["query_string"])
        content = await bodies.whole(request)
        body = check(CancelBody, intake.read_json(content)) if content else CancelBody()
        await self._shown.get(checked)
        outcome = await self._canceller.cancel(Filter(batch=checked), BY_CLIENT, body.reason)
        return Answer(200, [JSON], encode(outcome))


async def _checked(tasks: list[bytes]) -> list[Intake]:
    """Check the body of each; of several that are wrong the first is told."""
    found = list[Intake]()
    for place, body in enumerate(tasks):
        try:
            found.append(intake.nested(intake.read_json(body)))
        except RejectedError as error:
            raise of_task(place, error) from error
        if place % _BREATHE_AFTER == 0:
            await asyncio.sleep(0)
    return found


async def _fingerprint(tasks: list[Intake]) -> str:
    found = list[str]()
    for place, one in enumerate(tasks):
        found.append(intake.fingerprint(one))
        if place % _BREATHE_AFTER == 0:
            await asyncio.sleep(0)
    return intake.fingerprint_of_all(found)


def _accepted(batch_id: BatchId, wishes: list[Wish], receipt: Receipt) -> Answer:
    made = batches.accepted(batch_id, (wish.task_id for wish in wishes))
    headers = [JSON, (b"location", made.status_url.encode()), _RETRY_AFTER]
    if receipt.sequence is not None:
        headers.append((upto.HEADER, b"%d" % receipt.sequence))
    if receipt.replayed:
        headers.append((b"idempotency-replayed", b"true"))
    return Answer(202, headers, encode(made))


def _answer(shown: BatchView, known: bytes | None) -> Answer:
    """Show a document, or say that the client has it already."""
    etag = _etag(shown)
    headers = [(b"etag", etag), NO_CACHE]
    if shown.finished_at is None:
        headers.append(_RETRY_AFTER)
    if asking.matches(known, etag):
        return Answer(304, headers)
    return Answer(200, [JSON, *headers], encode(shown))


def _etag(shown: BatchView) -> bytes:
    return b'"%d"' % shown.sequence
