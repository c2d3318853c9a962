"""Everybody who listens, and to what.

The one rule: whom an event is for is found by a few look-ups, whatever the number of clients; only distinct
filters that say neither user nor batch are gone through one by one.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from msgspec import Struct

from schemas.event_filters import EVERYTHING, EventFilter, Happened, Said, holds
from schemas.ids import BatchId, TaskId

K = TypeVar("K")
_Key = tuple[str, str] | None


class Topic(Struct, frozen=True):
    """What a stream is about: one task, one batch, or what a filter means and no end.

    ``chosen`` of a batch is the filter that means it.
    """

    chosen: EventFilter = EVERYTHING
    task: TaskId | None = None
    batch: BatchId | None = None


class Client:
    """One open stream. ``seen``: the last sequence that it was given."""

    __slots__ = ("_limit", "_task", "_wake", "buffer", "closed", "ended", "seen", "size")

    def __init__(self, limit: int) -> None:
        self.buffer: list[bytes] = []
        self.size = 0
        self.seen = 0
        self.closed: str | None = None
        self.ended = False
        self._limit = limit
        self._wake: asyncio.Future[None] | None = None
        self._task = asyncio.current_task()

    def push(self, frame: bytes) -> None:
        if self.closed:
            return
        self.buffer.append(frame)
        self.size += len(frame)
        if self.size > self._limit:
            self.close("slow")
        self._rouse()

    def close(self, why: str) -> None:
        if self.closed:
            return
        self.closed = why
        if why == "slow" and self._task is not None:
            self._task.cancel()  # it may be waiting for the client to read
        self._rouse()

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        self._rouse()

    def take(self) -> bytes:
        """Give everything that is waiting."""
        frames = b"".join(self.buffer)
        self.buffer.clear()
        self.size = 0
        return frames

    async def wait(self) -> None:
        """Wait until there is something, or the stream is closed."""
        if self.buffer or self.closed or self.ended:
            return
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class Listeners:
    def __init__(self) -> None:
        self.open: set[Client] = set()
        """Every stream, also while it is still given what was before."""
        self._of_task: dict[TaskId, set[Client]] = {}
        self._of_batch: dict[BatchId, set[Client]] = {}
        self._wide: dict[_Key, dict[EventFilter, set[Client]]] = {}

    def add(self, topic: Topic, client: Client) -> None:
        if topic.task is not None:
            self._of_task.setdefault(topic.task, set()).add(client)
            return
        if topic.batch is not None:
            self._of_batch.setdefault(topic.batch, set()).add(client)
        self._wide.setdefault(_key(topic.chosen), {}).setdefault(topic.chosen, set()).add(client)

    def drop(self, topic: Topic, client: Client) -> None:
        self.open.discard(client)
        if topic.task is not None:
            _discard(self._of_task, topic.task, client)
            return
        if topic.batch is not None:
            _discard(self._of_batch, topic.batch, client)
        group = self._wide.get(_key(topic.chosen))
        if group is not None:
            _discard(group, topic.chosen, client)
            if not group:
                del self._wide[_key(topic.chosen)]

    def of_task(self, task_id: TaskId) -> Iterable[Client]:
        """Give those who follow a task, and it alone."""
        return self._of_task.get(task_id, ())

    def of_batch(self, batch: BatchId | None) -> Iterable[Client]:
        """Give those who follow a batch to its end."""
        return self._of_batch.get(batch, ()) if batch is not None else ()

    def wide(self, event: Happened, ask: Callable[[], Said]) -> Iterator[set[Client]]:
        """Give the others whom an event is for, once each."""
        for key in _keys(event):
            for chosen, clients in self._wide.get(key, {}).items():
                if holds(chosen, event, ask):
                    yield clients

    @property
    def any_wide(self) -> bool:
        return bool(self._wide)


_BY: Final = ("batch", "user")
"""What a filter is found by, best first."""


def _key(chosen: EventFilter) -> _Key:
    return next(((name, value) for name in _BY if (value := chosen.value(name)) is not None), None)


def _keys(event: Happened) -> Iterator[_Key]:
    """Give where the filters may be that mean an event."""
    yield None
    if event.user is not None:
        yield "user", event.user
    if event.batch is not None:
        yield "batch", event.batch


def _discard(topics: dict[K, set[Client]], topic: K, client: Client) -> None:
    clients = topics.get(topic)
    if clients is not None:
        clients.discard(client)
        if not clients:
            del topics[topic]
