"""The one tail of the read model's events in this process, and everybody who listens to it.

The one rule: a frame is made only from a row that was read from the file that a GET reads, so that no
listener is ever ahead of a GET; and registering a listener is one step with its last read, without an
await between them, so that it misses nothing and gets nothing twice.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from schemas import readmodel
from schemas.ids import TaskId
from services.api.queries import ReadModel, ReadModelAwayError, Row

log = structlog.get_logger()

PAGE: Final = 500
POLL_S: Final = 0.25
ENDLESS: Final = 2**63 - 1
ALL: Final = "*"
FINAL_TYPES: Final = frozenset({"task.done", "task.failed", "task.cancelled", "task.expired"})
_HEARTBEAT: Final = b": heartbeat\n\n"
_AT_ONCE: Final = 200


def event_frame(row: Row) -> bytes:
    """Spell a row of ``events`` as an SSE frame."""
    sequence, _, kind, wire, *_ = row
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (sequence, kind.encode(), wire)


def progress_frame(wire: bytes) -> bytes:
    return b"event: task.progress\ndata: %b\n\n" % wire


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


class Hub:
    def __init__(self, model: ReadModel, *, heartbeat_s: float) -> None:
        self._model = model
        self._heartbeat_s = heartbeat_s
        self._topics: dict[str, set[Client]] = {}
        self._waiters: dict[TaskId, set[asyncio.Future[None]]] = {}
        self._generation = -1
        self._stream: str | None = None
        self._told: list[Callable[[Row], None]] = []
        self._last = 0
        self._revision = 0
        self._hint = asyncio.Event()
        self.closing = False
        self.evicted = 0
        """How many clients were cut off because they did not read."""

    def hint(self) -> None:
        """There may be something new."""
        self._hint.set()

    def tell(self, told: Callable[[Row], None]) -> None:
        """Have every row of ``events`` given to ``told``, some twice after the read model was made anew."""
        self._told.append(told)

    def position(self) -> int:
        """Give the last sequence handed to listeners; ReadModelAwayError before there is any."""
        if self._stream is None:
            self._orient()
        return self._last

    async def run(self) -> None:
        """Tail, on a hint or every quarter of a second, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._hint.wait()
            self._hint.clear()
            try:
                self._model.look()
                await self._advance()
            except ReadModelAwayError:
                continue  # said already, and looked for again

    async def heartbeat(self) -> None:
        """Keep silent streams alive; runs until cancelled."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            for number, client in enumerate(self._clients()):
                if not client.buffer:
                    client.push(_HEARTBEAT)
                if number % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)

    async def _advance(self) -> None:
        while True:
            rows = self._model.rows(readmodel.EVENTS_BETWEEN, self._last, ENDLESS, PAGE)
            if self._generation != self._model.generation:
                self._orient()
                continue
            for row in rows:
                self._give(row)
            if len(rows) < PAGE:
                break
            await asyncio.sleep(0)
        for revision, task_id, wire in self._model.rows(readmodel.PROGRESS_AFTER, self._revision, PAGE):
            self._revision = revision
            self._give_progress(task_id, wire)

    def _orient(self) -> None:
        """Find the place in a file that was just opened, which may be behind the one before it."""
        row = self._model.row(readmodel.GET_CHECKPOINT)
        revision = self._model.rows(readmodel.LAST_PROGRESS)[0][0]
        if row is None:
            raise ReadModelAwayError("the read model has no checkpoint")
        sequence, stream, *_ = row
        if self._stream != stream:
            if self._stream is not None:
                log.warning("hub.other_stream")
                for client in self._clients():
                    client.close("restart")
            self._last = sequence
        else:
            # Clients skip what they have seen; what the new file gets only now they have perhaps not.
            self._last = min(self._last, sequence)
        self._revision = revision
        self._stream, self._generation = stream, self._model.generation

    def _give(self, row: Row) -> None:
        sequence, task_id, kind, *_ = row
        self._last = sequence
        self._resolve(task_id)
        for told in self._told:
            told(row)
        own, everybody = self._topics.get(task_id), self._topics.get(ALL)
        if not own and not everybody:
            return
        frame = event_frame(row)
        for client in (*(own or ()), *(everybody or ())):
            if sequence > client.seen:
                client.seen = sequence
                client.push(frame)
        if own and kind in FINAL_TYPES:
            for client in own:
                client.end()

    def _give_progress(self, task_id: TaskId, wire: bytes) -> None:
        self._resolve(task_id)
        frame = progress_frame(wire)
        for topic in (task_id, ALL):
            for client in self._topics.get(topic, ()):
                client.push(frame)

    def add(self, topic: str, client: Client) -> None:
        """Listen from now on. Call it in one step with the read of what came before."""
        self._topics.setdefault(topic, set()).add(client)
        if topic == ALL:
            return
        for revision, wire in self._model.rows(readmodel.PROGRESS_OF_TASK, topic):
            if revision <= self._revision:  # a later one is still to come
                client.push(progress_frame(wire))

    def drop(self, topic: str, client: Client) -> None:
        listeners = self._topics.get(topic)
        if listeners is not None:
            listeners.discard(client)
            if not listeners:
                del self._topics[topic]
        self.evicted += client.closed == "slow"

    def expect(self, task_id: TaskId) -> asyncio.Future[None]:
        """Give a future that is done at the task's next change; hand it to ``forget`` in the end."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(task_id, set()).add(future)
        return future

    def forget(self, task_id: TaskId, future: asyncio.Future[None]) -> None:
        waiters = self._waiters.get(task_id)
        if waiters is not None:
            waiters.discard(future)
            if not waiters:
                del self._waiters[task_id]

    def close(self) -> None:
        """End every stream and every wait: the process is about to end."""
        self.closing = True
        for client in self._clients():
            client.close("shutdown")
        for task_id in tuple(self._waiters):
            self._resolve(task_id)

    def _resolve(self, task_id: TaskId) -> None:
        for future in self._waiters.pop(task_id, ()):
            if not future.done():
                future.set_result(None)

    def _clients(self) -> Iterable[Client]:
        return [client for topic in tuple(self._topics.values()) for client in topic]
