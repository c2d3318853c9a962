"""Making a task: from a checked body to its first event in the log.

The one rule: nothing is promised before the log has it, and the same name and body give the same task,
however often, whatever else would be refused.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from schemas import intake, readmodel
from schemas.errors import (
    Code,
    DisconnectedError,
    OutcomeUnknownError,
    RejectedError,
    UnavailableError,
)
from schemas.events import TaskSubmitted
from schemas.ids import TaskId, UploadId, parse_artifact_id
from schemas.intake import Intake, Limits
from schemas.requests import AnySubmission, ImageRequest, Kind, Request, SpeechRequest
from schemas.subjects import Address
from schemas.task import Status
from services.api import problems
from services.api.admission import Admission, Counted, Place
from services.api.known_models import KnownModels
from services.api.lanes import Lanes
from services.api.marks import Marks
from services.api.outlook import Foresight
from services.api.queries import ReadModel, ReadModelAwayError
from services.api.recent import Recent
from services.artifacts import ArtifactInfo, ArtifactStore
from services.bus.connection import ApiError, Bus
from services.bus.tasklog import Found, LostRaceError, TaskLog


class Wish(Struct, frozen=True, kw_only=True):
    """A checked body, and how the client names the task.

    ``named``: the id is the client's choice or its key's, so it may be there already, and ``clash`` says
    what it then is to have sent another body. ``prefix`` is that of the request's members in the body.
    """

    task_id: TaskId
    intake: Intake
    fingerprint: str
    tenant: str
    named: bool = False
    clash: Code = Code.IDEMPOTENCY_KEY_REUSED
    traceparent: str | None = None
    prefix: str = ""
    upload: ArtifactInfo | None = None


class Receipt(Struct, frozen=True):
    """``replayed``: the task was there already. ``sequence`` of its first event where that is known."""

    task_id: TaskId
    status: Status
    sequence: int | None = None
    replayed: bool = False


class Submitter(Struct, frozen=True, kw_only=True):
    """What a submission needs of the world. ``storage_full`` is looked at now and then."""

    bus: Bus
    tasklog: TaskLog
    model: ReadModel
    store: ArtifactStore
    marks: Marks
    models: KnownModels
    admission: Admission
    lanes: Lanes
    recent: Recent
    foresight: Foresight
    limits: Limits
    patience_s: float
    storage_full: Callable[[], bool]
    now: Callable[[], datetime]
    new_seed: Callable[[], int]
    last_waiting: dict[str, Counted]

    def ready(self) -> None:
        """Refuse what could not be stored anyway, before it is read."""
        if not self.bus.connected:
            raise DisconnectedError("not connected to NATS")
        if self.storage_full():
            raise problems.storage_full()

    async def submit(self, wish: Wish) -> Receipt:
        """Store a task, once for each name.

        RejectedError for what is refused; UnavailableError where NATS does not answer, of which
        OutcomeUnknownError means that it may be stored.
        """
        if wish.named and (receipt := self._projected(wish)):
            return receipt
        try:
            submission = self._submission(wish, await self._check(wish))
            self.ready()
            place = self._place(submission)
        except (RejectedError, UnavailableError):
            if wish.named and (receipt := await self._streamed(wish)):
                return receipt
            raise
        try:
            sequence = await self._hold(place, self._store(wish, submission, place))
        except LostRaceError as lost:
            if receipt := _existing(wish, lost.found):
                return receipt
            raise OutcomeUnknownError(str(lost)) from lost
        except (OutcomeUnknownError, ConnectionError) as error:
            raise problems.outcome_unknown(task_id=wish.task_id) from error
        except ApiError as error:
            raise DisconnectedError(str(error)) from error
        self.recent.note(wish.task_id, sequence)
        status = Status.SCHEDULED if submission.not_before else Status.QUEUED
        return Receipt(wish.task_id, status, sequence)

    async def _hold(self, place: Place, storing: Coroutine[None, None, int]) -> int:
        """Keep a place while its task is being stored, and after that if it was."""
        try:
            sequence = await storing
        except BaseException:
            self.admission.abort(place)
            raise
        self.admission.commit(place, sequence)
        return sequence

    def _projected(self, wish: Wish) -> Receipt | None:
        try:
            row = self.model.row(readmodel.GET_ADDRESS, wish.task_id)
        except ReadModelAwayError:
            return None
        if row is None:
            return None
        _, fingerprint, status = row
        _check_same(wish, fingerprint)
        return Receipt(wish.task_id, Status(status), replayed=True)

    async def _streamed(self, wish: Wish) -> Receipt | None:
        """Look for the task where it is before the read model has it; None also when nobody answers."""
        try:
            found = await self.tasklog.lookup(wish.task_id)
        except UnavailableError:
            return None
        return _existing(wish, found)

    async def _check(self, wish: Wish) -> int:
        """Check what only a look at the world can tell, and give the size of the recording, in bytes."""
        request, common, _ = wish.intake
        kind = _kind(request)
        await self.models.check(request, kind, f"{wish.prefix}model")
        if common.backend is not None:
            await self.models.check_backend(common.backend, kind)
        if not isinstance(request, SpeechRequest):
            return 0
        if wish.upload is not None:
            return wish.upload.size
        return await self._recorded(request.artifact, f"{wish.prefix}artifact")

    async def _recorded(self, name: str, member: str) -> int:
        """Give the size of the recording of that name, in bytes; it stays from now on."""
        artifact_id = parse_artifact_id(name)
        info = await self.store.info(artifact_id) if artifact_id else None
        known = info is not None and info.media_type.startswith("audio/")
        if info is None or not known or not await self.marks.use(UploadId(info.nuid)):
            raise RejectedError(Code.UNKNOWN_ARTIFACT, f"there is no recording {name}", member=member)
        return info.size

    def _submission(self, wish: Wish, audio_bytes: int) -> AnySubmission:
        return intake.submission(
            wish.intake,
            now=self.now(),
            seed=self.new_seed(),
            limits=self.limits,
            tenant=wish.tenant,
            fingerprint=wish.fingerprint,
            audio_bytes=audio_bytes,
        )

    def _place(self, submission: AnySubmission) -> Place:
        """Reserve room; while the read model is away, by what it said last and what came since."""
        kind, tenant = submission.kind, submission.tenant
        lanes = self.lanes.of(submission)
        try:
            row = self.model.row(readmodel.ADMISSION, kind, tenant, lanes[0].name, lanes[1].name)
        except ReadModelAwayError:
            row = None
        if row is None:  # how many of which tenant waited is not kept, since there is no bound on tenants
            counted, depths = replace(self.last_waiting.get(kind, Counted()), of_tenant=0), (0, 0)
        else:
            counted, depths = Counted(*row[:3]), row[3:]
        self.last_waiting[kind] = counted
        place = self.admission.reserve(self.admission.shorter(lanes, depths), tenant, counted)
        if isinstance(place, Code):
            whose = f"of the tenant {tenant}, " if place is Code.TENANT_QUEUE_FULL else ""
            raise RejectedError(
                place,
                f"the queue for {kind} {whose}is full; nothing was stored",
                retry_after_s=self.foresight.retry_after_s(kind, tenant if whose else None),
            )
        return place

    async def _store(self, wish: Wish, submission: AnySubmission, place: Place) -> int:
        address = Address(place.lane, wish.task_id)
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + self.patience_s
        await self.lanes.ensure(place.lane, self.patience_s)
        patience_s = give_up_at - clock()
        if submission.not_before:
            return await self.tasklog.schedule(
                address,
                submission,
                submission.not_before,
                patience_s=patience_s,
                any_lane=wish.named,
                traceparent=wish.traceparent,
            )
        return await self.tasklog.append(
            address,
            TaskSubmitted(submission=submission),
            expected=0,
            patience_s=patience_s,
            any_lane=wish.named,
            traceparent=wish.traceparent,
        )


def _existing(wish: Wish, found: Found) -> Receipt | None:
    """Give the receipt for a task that is there; RejectedError when it came from another body."""
    task = found.task
    if task.status is Status.ABSENT:
        return None
    _check_same(wish, task.submission.fingerprint if task.submission else "")
    first = min(recorded.sequence for recorded in found.history)
    return Receipt(wish.task_id, task.status, first, replayed=True)


def _check_same(wish: Wish, fingerprint: str) -> None:
    if fingerprint == wish.fingerprint:
        return
    named = "this id" if wish.clash is Code.TASK_EXISTS else "this Idempotency-Key"
    raise RejectedError(
        wish.clash,
        f"{named} stands for a task that was made from another body",
        task_id=wish.task_id,
    )


def _kind(request: Request) -> Kind:
    match request:
        case ImageRequest():
            return Kind.IMAGE
        case SpeechRequest():
            return Kind.SPEECH
