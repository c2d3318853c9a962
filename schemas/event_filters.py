"""Which events are meant: the filter of a stream, and of a history.

The one rule: pure, and an event is held against its task as that stood right after it, so that who follows,
who comes back and who reads the history are given the same.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from schemas import envelope, filters, text
from schemas.errors import Code, RejectedError
from schemas.events import TOKENS
from schemas.filters import Filter
from schemas.ids import BatchId, TaskId, slug
from schemas.requests import Instant
from schemas.task import FINAL

PROGRESS: Final = "task.progress"
TYPE: Final = "type"
MEMBERS: Final = (*filters.MEMBERS, TYPE)
_PREFIX: Final = "task."
TYPES: Final = (*TOKENS.values(), PROGRESS.removeprefix(_PREFIX))


class Happened(NamedTuple):
    """A row of readmodel.EVENT. Of progress the first is its revision, and it has no end."""

    sequence: int
    task_id: TaskId
    type: str
    wire: bytes
    status: str
    backend: str | None
    error_code: str | None
    number: int
    kind: str
    model: str
    priority: str
    tenant: str
    user: str | None
    batch: BatchId | None
    submitted_at: str | None
    finished_at: str | None


_COLUMNS: Final[Mapping[str, str]] = {
    "kind": "kind",
    "user": "user",
    "tenant": "tenant",
    "backend": "backend",
    "error": "error_code",
    "priority": "priority",
    "batch": "batch",
}


class _Request(Struct, frozen=True):
    prompt: str | None = None


class Said(Struct, frozen=True):
    """What of a task stands in its document alone."""

    tags: tuple[str, ...] = ()
    request: _Request | None = None

    @property
    def words(self) -> list[str]:
        """The words of the prompt, none where there is none or it was erased."""
        return text.words(self.request.prompt) if self.request and self.request.prompt else []


_decode_said: Final = msgspec.json.Decoder(Said).decode


class Span(Struct, frozen=True):
    """Times as columns have them: from ``start`` on, and before ``stop``."""

    start: str | None = None
    stop: str | None = None

    def holds(self, at: str | None) -> bool:
        if at is None:
            return self.start is self.stop is None
        return (self.start is None or at >= self.start) and (self.stop is None or at < self.stop)


class EventFilter(Struct, frozen=True, kw_only=True):
    """What must all hold of an event; made by ``of``.

    ``task``: what was asked of its task, the rest is that in the spelling of the columns. ``types``: one of
    these, empty for every one. ``same``: these columns have these values.
    """

    task: Filter = Filter()
    types: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    same: tuple[tuple[str, str], ...] = ()
    submitted: Span = Span()
    finished: Span = Span()

    def value(self, column: str) -> str | None:
        """Give what a column has to have, None where anything will do."""
        return next((value for name, value in self.same if name == column), None)


EVERYTHING: Final = EventFilter()


def parse(raw: Mapping[str, str]) -> EventFilter:
    """Read a query: the members of a filter, and ``type``. RejectedError names what is wrong."""
    return of(filters.parse(raw), _types(raw.get(TYPE)))


def of(task: Filter, types: frozenset[str] = frozenset()) -> EventFilter:
    """Spell a filter of tasks as one of events."""
    same = [
        (column, str(value))
        for name, column in _COLUMNS.items()
        if (value := getattr(task, name)) is not None
    ]
    if task.model is not None:
        same.append(("model", slug(task.model)))
    return EventFilter(
        task=task,
        types=types,
        statuses=frozenset(str(status) for status in task.status),
        same=tuple(same),
        submitted=Span(_time(task.submitted_after), _time(task.submitted_before)),
        finished=Span(_time(task.finished_after), _time(task.finished_before)),
    )


def unfinished(chosen: EventFilter) -> Filter | None:
    """Give the filter of the tasks that are meant and have not ended; None where there can be none."""
    asked = chosen.task.status or filters.UNFINISHED
    left = tuple(status for status in asked if status in filters.UNFINISHED)
    return replace(chosen.task, status=left) if left else None


def said(document: bytes) -> Said:
    """Take from a task's document what a filter may ask for."""
    return _decode_said(document)


def holds(chosen: EventFilter, event: Happened, ask: Callable[[], Said]) -> bool:
    """Say whether an event is meant; ``ask`` is called only where its task's document has to be read."""
    if chosen.types and event.type not in chosen.types:
        return False
    if chosen.statuses and event.status not in chosen.statuses:
        return False
    if any(getattr(event, column) != value for column, value in chosen.same):
        return False
    ended_at = event.finished_at if event.status in FINAL else None
    if not (chosen.submitted.holds(event.submitted_at) and chosen.finished.holds(ended_at)):
        return False
    if chosen.task.tag is not None and chosen.task.tag not in ask().tags:
        return False
    return chosen.task.text is None or text.stands_in(text.search(chosen.task.text), ask().words)


def _types(value: str | None) -> frozenset[str]:
    if value is None:
        return frozenset()
    named = {part.strip().removeprefix(_PREFIX) for part in value.split(",")}
    if not named <= set(TYPES):
        raise RejectedError(
            Code.OUT_OF_RANGE,
            f"type is one of {', '.join(TYPES)}, or several with commas between them",
            member=TYPE,
            allowed=list(TYPES),
        )
    return frozenset(_PREFIX + name for name in named)


def _time(at: Instant | None) -> str | None:
    return envelope.timestamp(at) if at else None
