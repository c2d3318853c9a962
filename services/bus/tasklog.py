"""The append-only history of every task: guarded appends and lookups.

The one rule: an append names the last sequence its writer knows of, and a repeated append keeps its event
id, so that a lost answer is told from a lost race.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from schemas import envelope, events
from schemas.errors import ConflictError, OutcomeUnknownError, StorageFullError, UnavailableError
from schemas.events import Recorded, TaskEvent, TaskScheduled, TaskSubmitted
from schemas.ids import EventId, TaskId
from schemas.requests import AnySubmission
from schemas.subjects import TASKS, Address, any_guard, schedule_subject
from schemas.task import Task, fold
from services.bus.connection import ApiError, Bus
from services.bus.stored import from_direct_get, recorded

WRONG_LAST_SEQUENCE: Final = 10071
SAME_GUARD_IN_FLIGHT: Final = 10164
TOO_MANY_BATCHES: Final = 10176
BATCH_TOO_LARGE: Final = 10199
DUPLICATE_BATCH: Final = 10201
_CONFLICTS: Final = frozenset({WRONG_LAST_SEQUENCE, DUPLICATE_BATCH})
_AGAIN: Final = frozenset({SAME_GUARD_IN_FLIGHT, TOO_MANY_BATCHES})
_TRY_S: Final = 0.8  # less than half of what a client waits, so that there is a second try
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 1.0
_BREATHE_AFTER: Final = 50


class Found(Struct, frozen=True):
    """What a lookup saw. ``last``: the last message's sequence, whatever that is; an append expects it."""

    task: Task
    last: int
    address: Address | None
    history: tuple[Recorded, ...]

    def sequence_of(self, event_id: EventId) -> int | None:
        return next((r.sequence for r in self.history if r.event_id == event_id), None)


class Beginning(Struct, frozen=True):
    """A task to be: TaskSubmitted, or TaskScheduled and its schedule where it is not to start before."""

    address: Address
    submission: AnySubmission


class _Message(NamedTuple):
    subject: str
    body: bytes
    headers: dict[str, str]


class LostRaceError(ConflictError):
    """Somebody else's event came first; ``found`` is the task as it is now."""

    def __init__(self, found: Found) -> None:
        super().__init__(f"{found.task.task_id} is at {found.last}")
        self.found = found


class TaskLog:
    """Writer and reader of single tasks. ``source`` names the process in ``ce-source``."""

    def __init__(
        self,
        bus: Bus,
        source: str,
        now: Callable[[], datetime],
        new_event_id: Callable[[], EventId],
    ) -> None:
        self._bus = bus
        self._source = source
        self._now = now
        self._new_event_id = new_event_id

    async def lookup(self, task_id: TaskId, address: Address | None = None) -> Found:
        """Fold the last event of each kind: the latest state, though not the whole history."""
        guard = address.guard if address else any_guard(task_id)
        request = msgspec.json.encode({"multi_last": [guard]})
        messages = await self._bus.gather(f"$JS.API.DIRECT.GET.{TASKS}", request)
        pairs = sorted(
            (recorded(from_direct_get(message)) for message in messages), key=lambda p: p[1].sequence
        )
        history = tuple(event for _, event in pairs)
        return Found(
            task=fold(task_id, history),
            last=history[-1].sequence if history else 0,
            address=address or (pairs[0][0] if pairs else None),
            history=history,
        )

    async def append(
        self,
        address: Address,
        event: TaskEvent,
        *,
        expected: int,
        patience_s: float | None,
        any_lane: bool = False,
        traceparent: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> int:
        """Append after ``expected`` and give the new sequence.

        LostRaceError when another event came first. While NATS is away it is repeated for ``patience_s``
        (None: for ever), then DisconnectedError if nothing was ever sent, else OutcomeUnknownError.
        """
        guard = any_guard(address.task_id) if any_lane else address.guard
        headers = {
            **self._attributes(address.task_id, event, traceparent),
            **envelope.guarded(expected, guard),
            **(more or {}),
        }
        body = events.encode(event)

        async def publish(timeout_s: float) -> int:
            return await self._bus.publish(address.subject(type(event)), body, headers, timeout_s)

        lookup_address = None if any_lane else address
        return await self._persist(
            publish, address.task_id, lookup_address, EventId(headers[envelope.EVENT_ID]), patience_s
        )

    async def begin(
        self,
        tasks: Sequence[Beginning],
        *,
        patience_s: float,
        any_lane: bool = False,
        traceparent: str | None = None,
    ) -> list[int]:
        """Store tasks, all or none, in one atomic batch, and give the sequence of each one's first event.

        A task is a message, a delayed one two. ``any_lane``: the first, which stands for all, is refused in
        whichever lane it may be. Errors as of ``append``; ApiError(BATCH_TOO_LARGE): so many are not taken.
        """
        messages, offsets = list[_Message](), list[int]()
        for task in tasks:
            offsets.append(len(messages))
            messages += self._first(task, traceparent, any_lane=any_lane and not messages)
            if len(offsets) % _BREATHE_AFTER == 0:
                await asyncio.sleep(0)
        address, first_id = tasks[0].address, EventId(messages[0].headers[envelope.EVENT_ID])

        async def publish(timeout_s: float) -> int:
            return await self._publish_batch(messages, timeout_s)

        lookup_address = None if any_lane else address
        first = await self._persist(publish, address.task_id, lookup_address, first_id, patience_s)
        return [first + offset for offset in offsets]

    def _first(self, task: Beginning, traceparent: str | None, *, any_lane: bool) -> list[_Message]:
        """Give a task's first message, and after it the schedule of one that is to start later."""
        address, submission = task.address, task.submission
        task_id = address.task_id
        guard = any_guard(task_id) if any_lane else address.guard
        submitted = TaskSubmitted(submission=submission)
        first = TaskScheduled(submission=submission) if submission.not_before else submitted
        headers = {**self._attributes(task_id, first, traceparent), **envelope.guarded(0, guard)}
        message = _Message(address.subject(type(first)), events.encode(first), headers)
        if submission.not_before is None:
            return [message]
        headers = {
            **self._attributes(task_id, submitted, traceparent),
            **envelope.schedule(submission.not_before, address.subject(TaskSubmitted)),
        }
        return [message, _Message(schedule_subject(task_id), events.encode(submitted), headers)]

    async def _publish_batch(self, messages: Sequence[_Message], timeout_s: float) -> int:
        """Store messages atomically and give the sequence of the first."""
        if len(messages) == 1:
            return await self._bus.publish(*messages[0], timeout_s)
        batch_id = self._new_event_id()
        *head, last = messages
        for number, (subject, body, headers) in enumerate(head, 1):
            marks = {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
            await self._bus.send(subject, body, {**headers, **marks})
            if number % _BREATHE_AFTER == 0:
                await asyncio.sleep(0)
        marks = {
            "Nats-Batch-Id": batch_id,
            "Nats-Batch-Sequence": str(len(messages)),
            "Nats-Batch-Commit": "1",
        }
        sequence = await self._bus.publish(last.subject, last.body, {**last.headers, **marks}, timeout_s)
        return sequence - len(head)

    async def _persist(
        self,
        publish: Callable[[float], Awaitable[int]],
        task_id: TaskId,
        address: Address | None,
        event_id: EventId,
        patience_s: float | None,
    ) -> int:
        """Repeat a publish until its outcome is known or patience ends."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + patience_s if patience_s is not None else float("inf")
        pause_s, sent = _FIRST_PAUSE_S, False
        while True:
            try:
                return await publish(min(_TRY_S, max(0.05, give_up_at - loop.time())))
            except ApiError as error:
                if error.code in _CONFLICTS:
                    return await self._resolve_conflict(task_id, address, event_id, give_up_at)
                if error.code not in _AGAIN:
                    raise
            except UnavailableError as error:
                sent = sent or isinstance(error, OutcomeUnknownError)
                full = isinstance(error, StorageFullError) and patience_s is not None
                if full or loop.time() + pause_s >= give_up_at:
                    raise OutcomeUnknownError(str(error)) if sent else error from None
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    async def _resolve_conflict(
        self, task_id: TaskId, address: Address | None, event_id: EventId, give_up_at: float
    ) -> int:
        """Tell a lost answer from a lost race: the event is there under its own id, or another is."""
        found = await self._lookup_patiently(task_id, address, give_up_at)
        if (sequence := found.sequence_of(event_id)) is not None:
            return sequence
        raise LostRaceError(found)

    async def _lookup_patiently(self, task_id: TaskId, address: Address | None, give_up_at: float) -> Found:
        while True:
            try:
                return await self.lookup(task_id, address)
            except UnavailableError as error:
                if asyncio.get_running_loop().time() >= give_up_at:
                    raise OutcomeUnknownError(str(error)) from error
                await asyncio.sleep(_FIRST_PAUSE_S)

    def _attributes(self, task_id: TaskId, event: TaskEvent, traceparent: str | None) -> dict[str, str]:
        return envelope.attributes(
            event,
            task_id=task_id,
            event_id=self._new_event_id(),
            source=self._source,
            at=self._now(),
            traceparent=traceparent,
        )
