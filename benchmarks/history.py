"""What many days of work leave in the log, invented: plausible, and the same for the same seed. Pure.

The one rule: every event is as the product would have written it, in the order in which it would have
happened: a task comes each second, and while it waits and runs others do too.
"""

import heapq
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from benchmarks import invented
from benchmarks.invented import Draws
from schemas import ids
from schemas.events import (
    Artifact,
    Attempt,
    AttemptFailed,
    Candidate,
    Deadline,
    Decision,
    ErrorClass,
    TaskAttached,
    TaskCancelled,
    TaskDone,
    TaskError,
    TaskEvent,
    TaskExpired,
    TaskFailed,
    TaskScheduled,
    TaskStarted,
    TaskSubmitted,
    Usage,
)
from schemas.ids import BackendId, EventId, TaskId
from schemas.requests import ImageSubmission
from schemas.subjects import Address, Lane, lanes_of_tenant
from schemas.work import units

BETWEEN: Final = timedelta(seconds=1)
RARE: Final = 20
"""How many tasks have the rare word and the rare tag, however many there are."""
DISPATCHERS: Final = ("dispatcher-1f0c", "dispatcher-a7b2")
IMAGE_BACKENDS: Final = tuple(BackendId(f"image-{number}") for number in range(1, 9))
SPEECH_BACKENDS: Final = tuple(BackendId(f"speech-{number}") for number in range(1, 3))
ERROR: Final = "rejected_by_backend"
_ERRORS: Final = (ERROR, ERROR, ERROR, "backend_oom", "wrong_kind")
_FLEETING: Final = ("backend_error", "connection_lost", "no_answer")
_RETRIED: Final = 0.3
_POLICY: Final = "least_expected_completion"
_REASON: Final = "ends first there"


class Happening(NamedTuple):
    """An event, when and where. With a TaskScheduled goes the schedule that will submit the task."""

    at: datetime
    address: Address
    event: TaskEvent
    event_id: EventId


def history(seed: int, tasks: int, until: datetime) -> Iterator[Happening]:
    """Tell of so many tasks up to a moment, at which the last of them still wait or run."""
    going: list[tuple[datetime, int, int, list[Happening]]] = []
    for number in range(tasks):
        arrives = until - (tasks - number) * BETWEEN
        heapq.heappush(going, (arrives, number, 0, _story(seed, number, tasks, arrives)))
        while going and going[0][0] < arrives + BETWEEN:
            _, which, step, told = going[0]
            yield told[step]
            if step + 1 < len(told):
                heapq.heapreplace(going, (told[step + 1].at, which, step + 1, told))
            else:
                heapq.heappop(going)


def task_id(seed: int, number: int, tasks: int, until: datetime) -> TaskId:
    """Give the id of a task of ``history``."""
    return invented.task_id(Draws(seed, number), until - (tasks - number) * BETWEEN)


def _story(seed: int, number: int, tasks: int, at: datetime) -> list[Happening]:
    draws = Draws(seed, number)
    task = _Task(draws, at, rare=number % max(1, tasks // RARE) == 0)
    fate = draws.share()
    next(tell for share, tell in _FATES if fate < share)(task)
    return task.told


class _Task:
    """One task while its story is told; ``at`` is the moment that the story has come to."""

    def __init__(self, draws: Draws, at: datetime, *, rare: bool) -> None:
        self.draws = draws
        self.at = at
        self.task_id = invented.task_id(draws, at)
        self.submission = invented.submission(draws, at, rare=rare)
        made = self.submission
        lane = Lane(made.kind, made.model, made.priority, draws.one_of(lanes_of_tenant(made.tenant)))
        self.address = Address(lane, self.task_id)
        self.units = units(made)
        self.backends = IMAGE_BACKENDS if isinstance(made, ImageSubmission) else SPEECH_BACKENDS
        self.dispatcher = draws.one_of(DISPATCHERS)
        self.attempts: tuple[Attempt, ...] = ()
        self.told: list[Happening] = []

    def passes(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)

    def happens(self, event: TaskEvent) -> None:
        event_id = invented.event_id(self.task_id, len(self.told), self.at)
        self.told.append(Happening(self.at, self.address, event, event_id))

    def starts(self) -> Attempt:
        """Let the next attempt start, after a while, and be attached."""
        self.passes(60 * self.draws.share() ** 2)
        attempt = Attempt(
            attempt=len(self.attempts) + 1, backend=self.draws.one_of(self.backends), started_at=self.at
        )
        self.happens(
            TaskStarted(
                attempt=attempt.attempt,
                backend=attempt.backend,
                dispatcher=self.dispatcher,
                model=self.submission.request.model,
                units=self.units,
                decision=_decision(self.draws, attempt.backend, self.backends),
            )
        )
        self.passes(0.05)
        remote_id = self.draws.hex(16)
        self.happens(TaskAttached(attempt=attempt.attempt, dispatcher=self.dispatcher, remote_id=remote_id))
        self.passes(1 + 30 * self.draws.share())
        return attempt

    def fails_once(self) -> None:
        """Let an attempt fail that is followed by another."""
        attempt = self.starts()
        error = TaskError(
            code=self.draws.one_of(_FLEETING), message="broken off", error_class=ErrorClass.TRANSIENT
        )
        failed = Attempt(
            attempt=attempt.attempt,
            backend=attempt.backend,
            started_at=attempt.started_at,
            finished_at=self.at,
            error=error,
        )
        self.attempts += (failed,)
        retry_at = self.at + timedelta(seconds=1)
        self.happens(
            AttemptFailed(
                attempt=failed.attempt,
                error=error,
                retry_at=retry_at,
                counted=len(self.attempts),
                attempts=self.attempts,
            )
        )
        self.passes(1)


def _decision(draws: Draws, chosen: BackendId, backends: tuple[BackendId, ...]) -> Decision:
    others = [backend for backend in backends if backend != chosen][:3]
    score = 30 * draws.share()
    candidates = [
        Candidate(backend=backend, score=round(score + 2.5 * place, 2), free=place < 2, cold=place == 3)
        for place, backend in enumerate((chosen, *others))
    ]
    return Decision(policy=_POLICY, reason=_REASON, candidates=tuple(candidates))


def _done(task: _Task) -> None:
    task.happens(TaskSubmitted(submission=task.submission))
    if task.draws.share() < _RETRIED:
        task.fails_once()
    attempt = task.starts()
    run_s = (task.at - attempt.started_at).total_seconds()
    request = task.submission.request
    if isinstance(task.submission, ImageSubmission):
        artifacts = (_picture(task, attempt.attempt),)
        task.happens(TaskDone(attempt=attempt.attempt, artifacts=artifacts, usage=Usage(run_s=run_s)))
        return
    usage = Usage(run_s=run_s, audio_s=round(8 * run_s, 2))
    text = f"{request.prompt} {task.draws.text(20, 40)}"
    task.happens(TaskDone(attempt=attempt.attempt, artifacts=(), usage=usage, text=text))


def _picture(task: _Task, attempt: int) -> Artifact:
    return Artifact(
        artifact_id=ids.artifact_id(task.task_id, attempt, 1),
        media_type="image/png",
        bytes=1_000_000 + task.draws.number(),
        sha256=task.draws.hex(64),
        width=1024,
        height=1024,
        seed=task.draws.number(),
    )


def _failed(task: _Task) -> None:
    task.happens(TaskSubmitted(submission=task.submission))
    if task.draws.share() < _RETRIED:
        task.fails_once()
    attempt = task.starts()
    error = TaskError(code=task.draws.one_of(_ERRORS), message="the backend does not make this")
    ended = Attempt(
        attempt=attempt.attempt,
        backend=attempt.backend,
        started_at=attempt.started_at,
        finished_at=task.at,
        error=error,
    )
    task.happens(TaskFailed(error=error, attempts=(*task.attempts, ended)))


def _cancelled(task: _Task) -> None:
    task.happens(TaskSubmitted(submission=task.submission))
    if task.draws.share() < 0.5:
        task.starts()
    task.passes(2)
    task.happens(TaskCancelled(by="client", reason="no longer needed"))


def _expired(task: _Task) -> None:
    task.happens(TaskSubmitted(submission=task.submission))
    task.passes(300)
    task.happens(TaskExpired(deadline=Deadline.START, due_at=task.at))


def _scheduled(task: _Task) -> None:
    task.happens(TaskScheduled(submission=invented.later(task.submission)))


_FATES: Final[tuple[tuple[float, Callable[[_Task], None]], ...]] = (
    (0.88, _done),
    (0.96, _failed),
    (0.98, _cancelled),
    (0.997, _expired),
    (1.0, _scheduled),
)
"""What becomes of a task whose lot is less than that."""
