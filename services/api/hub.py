"""The one tail of the read model's events in this process, and everybody who listens to it.

The one rule: a frame is made only from a row that was read from the file that a GET reads, so that no
listener is ever ahead of a GET; and registering a listener is one step with its last read, without an
await between them, so that it misses nothing and gets nothing twice.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from schemas import readmodel
from schemas.event_filters import Happened, Said, said
from schemas.ids import BatchId
from schemas.task import FINAL
from services.api import frames
from services.api.listeners import Client, Listeners, Topic
from services.api.queries import ReadModel, ReadModelAwayError, Row
from services.api.waits import Waits
from services.process import at_most

log = structlog.get_logger()

PAGE: Final = 500
POLL_S: Final = 0.25
UNSOUGHT_S: Final = 0.05
"""While nobody listens or waits, what comes within so long is read together, nearly at the price of one."""
ENDLESS: Final = 2**63 - 1
FINAL_TYPES: Final = frozenset({"task.done", "task.failed", "task.cancelled", "task.expired"})
_AT_ONCE: Final = 200
_CATCH_UP_S: Final = 1.0
_LOOK_S: Final = 0.02


class Asked:
    """Reads a task's document once, and only if a filter asks for what stands there alone."""

    __slots__ = ("_model", "_number", "_said")

    def __init__(self, model: ReadModel, number: int) -> None:
        self._model = model
        self._number = number
        self._said: Said | None = None

    def __call__(self) -> Said:
        if self._said is None:
            row = self._model.row(readmodel.GET_DOC, self._number)
            self._said = said(row[0]) if row else Said()
        return self._said


class Hub:
    def __init__(self, model: ReadModel, *, heartbeat_s: float) -> None:
        self._model = model
        self._heartbeat_s = heartbeat_s
        self._listeners = Listeners()
        self._sought = asyncio.Event()
        self.waits = Waits(self._sought.set)
        self._generation = -1
        self._stream: str | None = None
        self._told: list[Callable[[Row], None]] = []
        self._last = 0
        self._revision = 0
        self._hint = asyncio.Event()
        self.evicted = 0
        """How many clients were cut off because they did not read."""

    def hint(self) -> None:
        """There may be something new."""
        self._hint.set()

    def tell(self, told: Callable[[Row], None]) -> None:
        """Have every row of ``events`` given to ``told``, some twice after the read model was made anew."""
        self._told.append(told)

    def position(self) -> int:
        """Give the last sequence handed to listeners, of the file that is read now and as far as that is.

        Of much that is new a page is handed on at once. ReadModelAwayError before there is any file.
        """
        if self._generation != self._model.generation:
            self._orient()
        self._read()
        return self._last

    async def reached(self, sequence: int) -> bool:
        """Wait a moment for this replica to get where another one was; False if it does not."""
        loop = asyncio.get_running_loop()
        end_at = loop.time() + _CATCH_UP_S
        while self.position() < sequence:
            if loop.time() >= end_at:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def run(self) -> None:
        """Tail, on a hint or every quarter of a second, until cancelled."""
        while True:
            async with at_most(POLL_S):
                await self._hint.wait()
            if not self._listeners.open and not self.waits.any:
                self._sought.clear()
                async with at_most(UNSOUGHT_S):
                    await self._sought.wait()
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
            for number, client in enumerate(tuple(self._listeners.open)):
                if not client.buffer:
                    client.push(frames.HEARTBEAT)
                if number % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)

    def _read(self) -> bool:
        """Hand on what is new, a page at most; True when there may be more."""
        rows = self._model.rows(readmodel.EVENTS_BETWEEN, self._last, ENDLESS, PAGE)
        if self._generation != self._model.generation:
            self._orient()
            return True
        for row in rows:
            self._give(row)
        return len(rows) == PAGE

    async def _advance(self) -> None:
        while self._read():  # noqa: ASYNC110 - others have their turn between two pages
            await asyncio.sleep(0)
        for row in self._model.rows(readmodel.PROGRESS_AFTER, self._revision, PAGE):
            self._give_progress(row)

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
                for client in self._listeners.open:
                    client.close("restart")
            self._last = sequence
        else:
            # Clients skip what they have seen; what the new file gets only now they have perhaps not.
            self._last = min(self._last, sequence)
        self._revision = revision
        self._stream, self._generation = stream, self._model.generation

    def _give(self, row: Row) -> None:
        event = Happened._make(row)
        sequence, task_id = event.sequence, event.task_id
        self.waits.changed(task_id)
        if event.batch:
            self.waits.changed(event.batch)
        for told in self._told:
            told(row)
        own = self._listeners.of_task(task_id)
        if own or self._listeners.any_wide:
            frame = frames.event(row)
            for client in own:
                _push(client, sequence, frame)
                if event.status in FINAL:  # by its end, or by an erasure that took the place of that
                    client.end()
            self._give_wide(event, frame)
        self._last = sequence  # last: what could not be read on the way is given once more

    def _give_wide(self, event: Happened, frame: bytes) -> None:
        for clients in self._listeners.wide(event, Asked(self._model, event.number)):
            for client in clients:
                _push(client, event.sequence, frame)
        followers = self._listeners.of_batch(event.batch)
        if event.batch and followers and event.status in FINAL:
            if batch_end(self._model, event.batch) > event.sequence:
                return
            for client in followers:
                client.end()

    def _give_progress(self, row: Row) -> None:
        revision, task_id, _, wire, *_ = row
        self.waits.changed(task_id)
        frame = frames.progress(wire)
        for client in self._listeners.of_task(task_id):
            client.push(frame)
        if self._listeners.any_wide:
            event = Happened._make(row)
            for clients in self._listeners.wide(event, Asked(self._model, event.number)):
                for client in clients:
                    client.push(frame)
        self._revision = revision

    def open(self, client: Client) -> None:
        """Keep a stream alive that is still to be given what was before; ``drop`` it in the end."""
        self._listeners.open.add(client)
        self._sought.set()
        if self.waits.closing:
            client.close("shutdown")

    def add(self, topic: Topic, client: Client) -> None:
        """Listen from now on. Call it in one step with the read of what came before."""
        self._listeners.add(topic, client)
        if topic.task is None:
            return
        for revision, wire in self._model.rows(readmodel.PROGRESS_OF_TASK, topic.task):
            if revision <= self._revision:  # a later one is still to come
                client.push(frames.progress(wire))

    def drop(self, topic: Topic, client: Client) -> None:
        self._listeners.drop(topic, client)
        self.evicted += client.closed == "slow"

    def close(self) -> None:
        """End every stream and every wait: the process is about to end."""
        for client in tuple(self._listeners.open):
            client.close("shutdown")
        self.waits.close()


def batch_end(model: ReadModel, batch: BatchId) -> int:
    """Give the sequence of a batch's last event, more than any other while it goes on."""
    row = model.row(readmodel.BATCH_REACH, batch)
    return row[1] if row and row[2] is not None else ENDLESS


def _push(client: Client, sequence: int, frame: bytes) -> None:
    if sequence > client.seen:
        client.seen = sequence
        client.push(frame)
