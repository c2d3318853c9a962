"""Stand-ins for what is slow or far away, for tests of its callers.

The one rule: a fake passes the conformance suite of the real ones, so what holds for it holds for them.
"""

import asyncio
import base64
import hashlib
import io
from collections import deque
from collections.abc import AsyncIterator
from enum import Enum

from PIL import Image

from schemas.events import ErrorClass
from schemas.ids import TaskId
from schemas.requests import ImageRequest, Kind, SpeechRequest
from services.dispatcher.backends import images, transcripts
from services.dispatcher.backends.base import (
    Attached,
    Failed,
    Finished,
    Health,
    Job,
    Ready,
    Refused,
    Report,
    failed,
)
from services.dispatcher.backends.classify import cancelled, unless_stopped, wrong_kind

FAKE_TEXT = "this is what a fake hears"


class Hold(Enum):
    """An ending that waits for the test: the call goes on until it says the end."""

    HOLD = "hold"


HOLD = Hold.HOLD
Ending = Finished | Failed | Hold


class FakeCall:
    """One attempt, in the hands of the test; what it does not decide succeeds."""

    def __init__(self, adapter: "FakeAdapter", job: Job, number: int) -> None:
        self.job = job
        self.remote_id = f"fake-{number}"
        self.stopped = asyncio.Event()
        self.ended = asyncio.Event()
        self._adapter = adapter
        self._said: asyncio.Queue[Report] = asyncio.Queue()
        self._end: Finished | Failed = failed(ErrorClass.LOST, "job_lost", "it is not known here")

    def say(self, report: Report) -> None:
        """Report this next; Finished and Failed are the end."""
        self._said.put_nowait(report)
        if isinstance(report, Finished | Failed) and not self.ended.is_set():
            self._end = report
            self.ended.set()
            self._adapter.end(self)

    def release(self) -> None:
        """Let it end well."""
        self.say(success(self.job))

    async def stop(self) -> None:
        already = self.stopped.is_set()
        self.stopped.set()
        if self._adapter.stops and not already:
            begun = self._adapter.begun.get(self.job.remote_id or "", self)
            begun.say(cancelled())

    async def reports(self) -> AsyncIterator[Report]:
        if self.job.remote_id is not None:
            yield await self._resumed(self.job.remote_id)
            return
        if self.stopped.is_set():
            yield cancelled()
            return
        refusal = self._adapter.refusal(self.job)
        if refusal is not None:
            yield refusal
            return
        self._adapter.begin(self)
        yield Attached(self.remote_id)
        while True:
            report = await self._said.get()
            if isinstance(report, Finished | Failed):
                break
            yield report
        yield unless_stopped(report, stopped=self.stopped.is_set())

    async def _resumed(self, remote_id: str) -> Finished | Failed:
        begun = self._adapter.begun.get(remote_id)
        if begun is None:
            return self._end
        await begun.ended.wait()
        return unless_stopped(begun._end, stopped=self.stopped.is_set())  # noqa: SLF001 - of its own kind


class FakeAdapter:
    """A backend whose calls end as the test says, and succeed at once where it says nothing.

    ``stops`` says whether ``stop`` ends a running call at once; else it goes on until the test ends it.
    ``started`` gives each call as it begins, ``begun`` all that have, by the id of their job.
    """

    resumes = True

    def __init__(
        self, kind: Kind = Kind.IMAGE, *, models: tuple[str, ...] = ("fake",), stops: bool = False
    ) -> None:
        self.kind = kind
        self.stops = stops
        self.health: Health = Ready(models)
        self.calls: list[FakeCall] = []
        self.started: asyncio.Queue[FakeCall] = asyncio.Queue()
        self.begun: dict[str, FakeCall] = {}
        self.most_at_once = 0
        self._running: dict[str, FakeCall] = {}
        self._endings: deque[Ending] = deque()

    def will(self, *endings: Ending) -> None:
        """Say how the next calls end, in the order in which they begin."""
        self._endings.extend(endings)

    def call(self, job: Job) -> FakeCall:
        call = FakeCall(self, job, len(self.calls) + 1)
        self.calls.append(call)
        return call

    async def probe(self, timeout_s: float) -> Health:  # noqa: ARG002 - the port's; a fake answers at once
        return self.health

    async def idle(self, remote_id: str | None, task_id: TaskId | None = None) -> bool | None:  # noqa: ARG002 - the port's
        if isinstance(self.health, Refused):
            return True
        return None if remote_id is None else remote_id not in self._running

    def refusal(self, job: Job) -> Failed | None:
        """Give what keeps a call from beginning."""
        if isinstance(self.health, Refused):
            return failed(ErrorClass.BACKEND_DOWN, "connection_refused", self.health.reason)
        wanted = Kind.IMAGE if isinstance(job.request, ImageRequest) else Kind.SPEECH
        return None if wanted is self.kind else wrong_kind()

    def begin(self, call: FakeCall) -> None:
        self._running[call.remote_id] = self.begun[call.remote_id] = call
        self.most_at_once = max(self.most_at_once, len(self._running))
        ending = self._endings.popleft() if self._endings else success(call.job)
        if not isinstance(ending, Hold):
            call.say(ending)
        self.started.put_nowait(call)

    def end(self, call: FakeCall) -> None:
        self._running.pop(call.remote_id, None)


def success(job: Job) -> Finished:
    """Give the true end of a job: pictures drawn from prompt and seed, or always the same text."""
    match job.request:
        case ImageRequest() as request:
            seed = request.seed or 0
            pictures = [picture(request, seed + number) for number in range(request.n)]
            return _checked(images.finished(pictures, seed))
        case SpeechRequest() as request:
            heard = transcripts.Transcript(text=FAKE_TEXT, duration=1.5)
            return _checked(transcripts.finished(heard, request))


def picture(request: ImageRequest, seed: int) -> str:
    """Draw a PNG of one colour, the same for the same prompt and seed; in base64."""
    colour = hashlib.sha256(f"{seed}:{request.prompt}".encode()).digest()[:3]
    drawn = io.BytesIO()
    Image.new("RGB", (request.width, request.height), (colour[0], colour[1], colour[2])).save(drawn, "PNG")
    return base64.b64encode(drawn.getvalue()).decode()


def _checked(end: Finished | Failed) -> Finished:
    assert isinstance(end, Finished)
    return end
