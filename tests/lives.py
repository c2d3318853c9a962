"""Tasks that live in the log and differ in all that a filter may ask for, and what is told of each.

The one rule: what a filter means is worked out from how the lives were made up, and from nothing that is
tested.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from schemas.events import TaskCancelled, TaskError, TaskEvent, TaskFailed, TaskStarted, TaskSubmitted
from schemas.ids import ANY_MODEL, BackendId, BatchId, slug
from schemas.requests import AnySubmission, InBatch, Priority, SpeechRequest
from schemas.subjects import Address, Lane
from services import clock
from tests.api import Rig
from tests.builders import ENDLESS, image, picture, speech

BATCH: Final = BatchId("0199d4e8-7c1a-7000-9000-000000000001")
_STATUS: Final = {
    TaskSubmitted: ("task.submitted", "QUEUED"),
    TaskStarted: ("task.started", "RUNNING"),
    TaskFailed: ("task.failed", "FAILED"),
    TaskCancelled: ("task.cancelled", "CANCELLED"),
}


class Life(Struct, frozen=True):
    """What is said of a task at its beginning, where it runs and what it fails for."""

    number: int
    kind: str
    model: str | None
    user: str | None
    tag: str
    prompt: str
    priority: Priority
    tenant: str
    batch: BatchId | None
    backend: str
    error: str | None


class Told(Struct, frozen=True):
    """An event, and how its task stood right after it."""

    life: Life
    sequence: int
    type: str
    status: str
    backend: str | None

    @property
    def error(self) -> str | None:
        return self.life.error if self.status == "FAILED" else None


def life(number: int) -> Life:
    """Make up a life; over many numbers each member goes with each other."""
    return Life(
        number=number,
        kind="speech" if number % 5 == 4 else "image",
        model=(None, "Qwen/Image", "flux")[number % 3],
        user=(None, "ada", "bob")[number % 7 % 3],
        tag=("zoo", "city")[number % 11 % 2],
        prompt=("a red fox", "an owl at night", "the red house")[number % 13 % 3],
        priority=tuple(Priority)[number % 4 % 3],
        tenant=("default", "other")[number % 19 % 2],
        batch=BATCH if number % 17 < 5 else None,
        backend=f"image-{1 + number % 2}",
        error=(None, "boom", "broken")[number % 23 % 3],
    )


class World:
    """Lets tasks live, several at once, and keeps what was told."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._told: list[Told] = []
        self.done = False

    async def live(self, numbers: range, at_once: int = 5) -> None:
        for first in numbers[::at_once]:
            group = range(first, min(first + at_once, numbers.stop))
            await asyncio.gather(*(self._live(life(number)) for number in group))

    def meant(self, holds: Callable[[Told], bool]) -> list[int]:
        """Give the sequences of the events that a filter means."""
        return sorted(told.sequence for told in self._told if holds(told))

    @property
    def last(self) -> int:
        return max(told.sequence for told in self._told)

    async def _live(self, its: Life) -> None:
        model = slug(its.model) if its.model else ANY_MODEL
        address = Address(Lane(its.kind, model, its.priority, its.number % 4), clock.new_task_id())
        last, backend = 0, None
        for event in _story(its):
            last = await self._rig.tasklog.append(address, event, expected=last, patience_s=5)
            if isinstance(event, TaskStarted):
                backend = event.backend
            self._told.append(Told(its, last, *_STATUS[type(event)], backend))


def _story(its: Life) -> list[TaskEvent]:
    """Some fail, some are cancelled before they start, some while they run, and some go on."""
    start = TaskStarted(attempt=1, backend=BackendId(its.backend), dispatcher="test")
    end: list[TaskEvent] = []
    if its.error:
        end = [start, TaskFailed(error=TaskError(code=its.error, message="it broke"))]
    elif its.number % 3:
        cancelled = TaskCancelled(by="test")
        end = [start, cancelled] if its.number % 2 else [cancelled]
    else:
        end = [start]
    return [TaskSubmitted(submission=_submission(its)), *end]


def _submission(its: Life) -> AnySubmission:
    common: dict[str, Any] = {  # Any: members of a submission
        **ENDLESS,
        "user": its.user,
        "tags": (its.tag, "all"),
        "tenant": its.tenant,
        "priority": its.priority,
        "batch": InBatch(batch_id=its.batch, size=10_000, place=its.number) if its.batch else None,
    }
    if its.kind == "speech":
        request = SpeechRequest(artifact="recording", model=its.model, prompt=its.prompt)
        return speech(request=request, **common)
    return image(request=picture(prompt=its.prompt, model=its.model), **common)
