"""Making a task: from a checked body to its first event in the log.

The one rule: nothing is promised before the log has it, and the same name and body give the same task,
however often, whatever else would be refused.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import datetime
from typing import Final

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
from schemas.ids import TaskId, UploadId, parse_artifact_id
from schemas.intake import Intake, Limits
from schemas.requests import AnySubmission, ImageRequest, InBatch, Kind, Request, SpeechRequest
from schemas.subjects import Address
from schemas.task import Status
from services.api import problems
from services.api.admission import Place
from services.api.known_models import KnownModels
from services.api.marks import Marks
from services.api.placing import Placing
from services.api.queries import ReadModel, ReadModelAwayError
from services.api.recent import Recent
from services.artifacts import ArtifactInfo, ArtifactStore
from services.bus.connection import ApiError, Bus
from services.bus.tasklog import BATCH_TOO_LARGE, Beginning, Found, LostRaceError, TaskLog

_AT_ONCE: Final = 32


class Wish(Struct, frozen=True, kw_only=True):
    """A checked body, and how the client names the task.

    ``named``: the id is the client's choice or its key's, so it may be there already, and ``clash`` says
    what it then is to have sent another body. ``prefix`` is that of the request's members in the body. Of
    tasks that are submitted together ``fingerprint`` is of them all.
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
    batch: InBatch | None = None


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
    placing: Placing
    recent: Recent
    limits: Limits
    patience_s: float
    storage_full: Callable[[], bool]
    now: Callable[[], datetime]
    new_seed: Callable[[], int]

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
        return await self.submit_all((wish,))

    async def submit_all(self, wishes: Sequence[Wish]) -> Receipt:
        """Store tasks, all or none, and give the receipt of the first, which stands for all.

        Its ``sequence`` is that of the last. Errors as of ``submit``; their member names the task.
        """
        wish = wishes[0]
        if wish.named and (receipt := self._projected(wish)):
            return receipt
        try:
            submissions = await self._checked(wishes)
            self.ready()
            places = self.placing.reserve(submissions)
        except (RejectedError, UnavailableError):
            if wish.named and (receipt := await self._streamed(wish)):
                return receipt
            raise
        tasks = [
            Beginning(Address(place.lane, one.task_id), submission)
            for one, place, submission in zip(wishes, places, submissions, strict=True)
        ]
        try:
            sequences = await self._hold(places, self._store(wish, tasks))
        except LostRaceError as lost:
            if receipt := _existing(wish, lost.found):
                return receipt
            raise OutcomeUnknownError(str(lost)) from lost
        except (OutcomeUnknownError, ConnectionError) as error:
            raise problems.outcome_unknown(**_named(wish)) from error
        except ApiError as error:
            raise _refused(error, tasks) from error
        for one, sequence in zip(wishes, sequences, strict=True):
            self.recent.note(one.task_id, sequence)
        status = Status.SCHEDULED if submissions[0].not_before else Status.QUEUED
        return Receipt(wish.task_id, status, sequences[-1])

    async def _hold(
        self, places: Sequence[Place], storing: Coroutine[None, None, Sequence[int]]
    ) -> Sequence[int]:
        """Keep places while their tasks are being stored, and after that if they were."""
        try:
            sequences = await storing
        except BaseException:
            self.placing.abort(places)
            raise
        self.placing.commit(places, sequences)
        return sequences

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

    async def _checked(self, wishes: Sequence[Wish]) -> list[AnySubmission]:
        """Check all, some at a time; of several that are wrong the first is told."""
        if len(wishes) == 1:  # a task of its own would cost it more than the checks do
            return [await self._made(wishes[0])]
        submissions = list[AnySubmission]()
        for begin in range(0, len(wishes), _AT_ONCE):
            found = await asyncio.gather(
                *(self._made(wish) for wish in wishes[begin : begin + _AT_ONCE]), return_exceptions=True
            )
            for one in found:
                if isinstance(one, BaseException):
                    raise one
                submissions.append(one)
        return submissions

    async def _made(self, wish: Wish) -> AnySubmission:
        with _of(wish):
            return self._submission(wish, await self._check(wish))

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
        made = intake.submission(
            wish.intake,
            now=self.now(),
            seed=self.new_seed(),
            limits=self.limits,
            tenant=wish.tenant,
            fingerprint=wish.fingerprint,
            audio_bytes=audio_bytes,
        )
        return replace(made, batch=wish.batch) if wish.batch else made

    async def _store(self, wish: Wish, tasks: Sequence[Beginning]) -> Sequence[int]:
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + self.patience_s
        for lane in {task.address.lane: None for task in tasks}:
            await self.placing.lanes.ensure(lane, give_up_at - clock())
        return await self.tasklog.begin(
            tasks, patience_s=give_up_at - clock(), any_lane=wish.named, traceparent=wish.traceparent
        )


def _named(wish: Wish) -> dict[str, str]:
    """Give the member of a problem document that says what it is about."""
    return {"batch_id": wish.batch.batch_id} if wish.batch else {"task_id": wish.task_id}


@contextlib.contextmanager
def _of(wish: Wish) -> Iterator[None]:
    """Say of a refusal which of the tasks it is about."""
    try:
        yield
    except RejectedError as error:
        if wish.batch is None:
            raise
        raise of_task(wish.batch.place, error) from error


def of_task(place: int, error: RejectedError) -> RejectedError:
    """Name the task in what is said of one that was submitted together with others."""
    task = f"tasks[{place}]"
    member = f"{task}.{error.member}" if error.member else task
    return RejectedError(error.code, f"{task}: {error.detail}", member=member, **error.extra)


def _refused(error: ApiError, tasks: Sequence[Beginning]) -> RejectedError:
    """Say what it means that JetStream refused."""
    if error.code != BATCH_TOO_LARGE:
        return RejectedError(Code.NATS_AWAY, f"NATS refuses it: {error}; nothing was stored")
    delayed = sum(task.submission.not_before is not None for task in tasks)
    return RejectedError(
        Code.BATCH_TOO_LARGE,
        f"{len(tasks)} tasks, {delayed} of them delayed, are {len(tasks) + delayed} messages, more than "
        f"the NATS server takes at once, see limits.batch.max_msgs of its configuration: {error}",
        member="tasks",
    )


def _existing(wish: Wish, found: Found) -> Receipt | None:
    """Give the receipt for a task that is there; RejectedError when it came from another body."""
    task = found.task
    if task.status is Status.ABSENT:
        return None
    _check_same(wish, task.submission.fingerprint if task.submission else "")
    # Of a batch the first one's does not say where it ends.
    first = None if wish.batch else min(recorded.sequence for recorded in found.history)
    return Receipt(wish.task_id, task.status, first, replayed=True)


def _check_same(wish: Wish, fingerprint: str) -> None:
    if fingerprint == wish.fingerprint:
        return
    named = "this id" if wish.clash is Code.TASK_EXISTS else "this Idempotency-Key"
    what = "tasks that were" if wish.batch else "a task that was"
    raise RejectedError(wish.clash, f"{named} stands for {what} made from another body", **_named(wish))


def _kind(request: Request) -> Kind:
    match request:
        case ImageRequest():
            return Kind.IMAGE
        case SpeechRequest():
            return Kind.SPEECH
