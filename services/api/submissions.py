"""Routes that take new tasks.

The one rule: a body is checked as a whole before anything is done about it, and 202 is said only of what
the log has stored.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from litestar import post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from schemas import intake, replay, views
from schemas.errors import Code, RejectedError, UnavailableError
from schemas.ids import TaskId, derived_task_id, parse_task_id
from schemas.intake import Intake
from schemas.requests import Kind
from schemas.views import API
from services.api import asking, bodies, openapi
from services.api.answer import JSON, Answer, Ask, Headers, encode, headers_of
from services.api.origins import Origins
from services.api.reads import Reads
from services.api.submit import Receipt, Submitter, Wish
from services.api.tasks import answer_with
from services.api.uploads import FILE, SLACK, Form, Uploads, content_of, members
from services.artifacts import ArtifactInfo

_FORM: Final = "multipart/form-data"
_RETRY_AFTER: Final = (b"retry-after", b"1")
_KEY: Final = b"idempotency-key"
_ARTIFACT: Final = "artifact"


class SubmissionRoutes:
    def __init__(
        self,
        submitter: Submitter,
        uploads: Uploads,
        reads: Reads,
        origins: Origins,
        new_task_id: Callable[[], TaskId],
        *,
        trust_tenant: bool,
        max_upload_mib: int,
    ) -> None:
        self._submitter = submitter
        self._uploads = uploads
        self._reads = reads
        self._origins = origins
        self._new_task_id = new_task_id
        self._trust_tenant = trust_tenant
        self._max_upload_mib = max_upload_mib

    def handlers(self) -> list[HTTPRouteHandler]:
        return [
            post(f"{API}/image/async", status_code=202, opt=openapi.IMAGE)(self.image),
            post(
                f"{API}/speech/async",
                status_code=202,
                opt={**openapi.SPEECH, "max_upload_mib": self._max_upload_mib},
                request_max_body_size=self._max_upload_mib * 1024 * 1024 + SLACK,
            )(self.speech),
            post(f"{API}/tasks", status_code=202, opt=openapi.CREATE)(self.create),
            put(f"{API}/tasks/{{task_id:str}}", status_code=202, opt=openapi.PUT)(self.put),
            post(f"{API}/tasks/{{task_id:str}}/replay", status_code=202, opt=openapi.REPLAY)(self.replay),
        ]

    async def image(self, request: Ask) -> ASGIApp:
        """Ask for a picture."""
        return await self._accept(request, intake.flat(Kind.IMAGE, await _json(request)))

    async def create(self, request: Ask) -> ASGIApp:
        """Ask for anything."""
        return await self._accept(request, intake.nested(await _json(request)), prefix="request.")

    async def put(self, request: Ask, task_id: FromPath[str]) -> ASGIApp:
        """Ask for anything under an id of one's own."""
        checked = parse_task_id(task_id)
        if _KEY in headers_of(request):
            raise RejectedError(
                Code.CONFLICTING_MEMBERS,
                "PUT names its task by its id, and takes no Idempotency-Key",
                member="Idempotency-Key",
            )
        body = intake.nested(await _json(request))
        return await self._accept(request, body, task_id=checked, prefix="request.")

    async def replay(self, request: Ask, task_id: FromPath[str]) -> ASGIApp:
        """Submit a task again, changed where the body says so."""
        checked = parse_task_id(task_id)
        changed = replay.changes(await _json(request) if await bodies.whole(request) else {})
        origin = await self._origins.get(checked)
        body = replay.again(origin.made, checked, origin.submitted_at, changed)
        return await self._accept(request, body, prefix="request.", tenant=origin.made.tenant)

    async def speech(self, request: Ask) -> ASGIApp:
        """Ask for a transcription."""
        headers = headers_of(request)
        kind = asking.media_type(headers.get(b"content-type"))
        if kind != _FORM:
            raw = await _json(request, _FORM, bodies.JSON)
            return await self._accept(request, intake.flat(Kind.SPEECH, raw))
        asking.parameters(request.scope["query_string"])
        if _KEY not in headers:
            self._submitter.ready()
        form = await self._uploads.read(content_of(request), headers[b"content-type"])
        try:
            return await self._transcribe(request, form)
        except BaseException as error:
            unknown = isinstance(error, RejectedError) and error.code is Code.OUTCOME_UNKNOWN
            if not unknown:  # else the task may be there, and need it
                await self._uploads.discard(form.upload)
            raise

    async def _transcribe(self, request: Ask, form: Form) -> ASGIApp:
        raw, upload = members(form.fields), form.upload
        if upload is None and _ARTIFACT not in raw:
            raise RejectedError(Code.MISSING_MEMBER, "file or artifact is required", member=FILE)
        if upload is None:
            return await self._accept(request, intake.flat(Kind.SPEECH, raw, strict=False))
        if _ARTIFACT in raw:
            raise RejectedError(
                Code.CONFLICTING_MEMBERS, "file and artifact exclude each other", member=_ARTIFACT
            )
        checked = intake.flat(Kind.SPEECH, {**raw, _ARTIFACT: upload.artifact_id}, strict=False)
        return await self._accept(request, checked, upload=upload)

    async def _accept(
        self,
        request: Ask,
        body: Intake,
        *,
        task_id: TaskId | None = None,
        prefix: str = "",
        upload: ArtifactInfo | None = None,
        tenant: str | None = None,
    ) -> ASGIApp:
        asking.parameters(request.scope["query_string"])
        headers = headers_of(request)
        asks = asking.tenant(headers.get(b"taskfold-tenant"), trusted=self._trust_tenant)
        key = asking.idempotency_key(headers.get(_KEY))
        derived = derived_task_id(asks, key) if key is not None else None
        wish = Wish(
            task_id=task_id or derived or self._new_task_id(),
            intake=body,
            fingerprint=_fingerprint(body, upload),
            tenant=tenant or asks,
            named=task_id is not None or key is not None,
            clash=Code.TASK_EXISTS if task_id else Code.IDEMPOTENCY_KEY_REUSED,
            traceparent=asking.traceparent(headers.get(b"traceparent")),
            prefix=prefix,
            upload=upload,
        )
        receipt = await self._submitter.submit(wish)
        if receipt.replayed:
            await self._uploads.discard(upload)
        prefer = headers.get(b"prefer")
        if prefer is None:
            return _accepted(receipt)
        return await self._preferred(receipt, asking.prefer(prefer))

    async def _preferred(self, receipt: Receipt, preference: asking.Preference) -> Answer:
        """Wait for the end as long as the client prefers to."""
        more: Headers = []
        if preference.wait_s is not None:
            try:
                shown = await self._reads.until(
                    receipt.task_id, lambda shown: shown.final, preference.wait_s
                )
            except UnavailableError:
                return _accepted(receipt)
            if shown.final:
                applied = (b"preference-applied", b"wait=%d" % preference.wait_s)
                return answer_with(shown, more=[applied, _location(receipt)])
        if preference.respond_async:
            more.append((b"preference-applied", b"respond-async"))
        return _accepted(receipt, more)


def _accepted(receipt: Receipt, more: Headers | None = None) -> Answer:
    headers = [JSON, _location(receipt), _RETRY_AFTER, *(more or ())]
    if receipt.sequence is not None:
        headers.append((b"taskfold-sequence", b"%d" % receipt.sequence))
    if receipt.replayed:
        headers.append((b"idempotency-replayed", b"true"))
    return Answer(202, headers, encode(views.accepted(receipt.task_id, receipt.status)))


def _location(receipt: Receipt) -> tuple[bytes, bytes]:
    return (b"location", views.task_url(receipt.task_id).encode())


def _fingerprint(body: Intake, upload: ArtifactInfo | None) -> str:
    """Digest a body; the name of an upload is new each time, so its content stands for it."""
    if upload is None:
        return intake.fingerprint(body)
    content = msgspec.structs.replace(body.request, artifact=f"sha256:{upload.sha256}")
    return intake.fingerprint(body._replace(request=content))


async def _json(request: Ask, *allowed: str) -> dict[str, Any]:  # Any: JSON
    return intake.read_json(await bodies.content(request, *allowed))
