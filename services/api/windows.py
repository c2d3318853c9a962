"""Reading events that have been, a bounded piece at a time.

The one rule: a window says how far was looked, and of all up to there nothing that is meant was left out.
"""

from typing import Final, NamedTuple

import msgspec

from schemas import readmodel
from schemas.event_filters import EventFilter, Happened, holds
from schemas.ids import TaskId
from schemas.task import FINAL
from services.api.hub import ENDLESS, Asked, Hub, batch_end
from services.api.listeners import Topic
from services.api.queries import ReadModel, Row

NEAR: Final = 250
"""So many sequences are read at once, on the event loop; more in the thread of the lists."""
_LOOKED: Final = 10_000
"""So many events are passed by in one query that leaves few over."""
_READ: Final = 50
"""So many at once where the document of each has to be read, on the event loop."""

_text: Final = msgspec.json.Encoder().encode


class Window(NamedTuple):
    """Events up to and including ``looked``; ``whole``: there is nothing after that yet."""

    rows: list[Row]
    looked: int
    whole: bool


class Windows:
    def __init__(self, model: ReadModel, hub: Hub) -> None:
        self._model = model
        self._hub = hub

    def near(self, topic: Topic, after: int) -> Window | None:
        """Read up to where the hub is, if that is near, else None.

        Of a task everything is near; where that is not whole there is more.
        """
        position = self._hub.position()
        if topic.task is not None:
            rows = self._model.rows(readmodel.EVENTS_OF_TASK, topic.task, after, position, NEAR)
            return Window(rows, rows[-1][0] if rows else after, len(rows) < NEAR)
        if after >= position:
            return Window([], after, whole=True)
        at_once = _at_once(topic, NEAR)
        if position - after > at_once:
            return None
        query = _looking(topic.chosen, after, position, at_once)
        window = self._window(topic, query, self._model.rows(readmodel.EVENTS_LOOKED_AT, *query))
        return window._replace(whole=True)

    async def far(self, topic: Topic, after: int, until: int, limit: int = NEAR) -> Window:
        """Read a piece on the way to a sequence, ENDLESS being where the file is."""
        if topic.task is not None:
            query: tuple[object, ...] = (topic.task, after, until, limit + 1)
            rows = await self._model.page(readmodel.EVENTS_OF_TASK, query)
            shown = rows[:limit]
            return Window(shown, shown[-1][0] if shown else after, len(rows) <= limit)
        query = _looking(topic.chosen, after, until, _at_once(topic, limit))
        return self._window(topic, query, await self._model.page(readmodel.EVENTS_LOOKED_AT, query))

    def _window(self, topic: Topic, query: tuple[object, ...], found: list[Row]) -> Window:
        (upto, written, *_), *rows = found
        # A file that has just come into place may not reach to where a client is.
        looked: int = rows[-1][0] if len(rows) == query[3] else max(upto, query[0])
        meant = [row for row in rows if self._holds(topic.chosen, row)]
        return Window(meant, looked, looked >= min(written, self._end(topic)))

    def _holds(self, chosen: EventFilter, row: Row) -> bool:
        event = Happened._make(row)
        return holds(chosen, event, Asked(self._model, event.number))

    def gone(self, topic: Topic, after: int) -> bool:
        """Whether retention has dropped events after that one. Ask once they have been read."""
        if topic.task is not None:
            return False
        row = self._model.row(readmodel.PRUNED)
        if row is None or row[0] <= after:
            return False
        if topic.batch is None:
            return True
        lacking = self._model.row(readmodel.BATCH_LACKS, topic.batch)
        return lacking is None or bool(lacking[0])

    def over(self, topic: Topic, after: int) -> bool:
        """Whether nothing can follow."""
        return self._end(topic) <= after

    def _end(self, topic: Topic) -> int:
        if topic.task is not None:
            return finished_at(self._model, topic.task)
        return batch_end(self._model, topic.batch) if topic.batch is not None else ENDLESS


def finished_at(model: ReadModel, task_id: TaskId) -> int:
    """Give the sequence of a finished task's last event, more than any other while it goes on."""
    row = model.row(readmodel.TASK_STATUS, task_id)
    return row[1] if row and row[0] in FINAL else ENDLESS


def _at_once(topic: Topic, limit: int) -> int:
    return limit if topic.chosen.task.text is None else min(limit, _READ)


def _looking(chosen: EventFilter, after: int, until: int, limit: int) -> tuple[object, ...]:
    """Give the parameters of EVENTS_LOOKED_AT."""
    columns = tuple(
        chosen.value(name) for name in ("kind", "model", "tenant", "user", "batch", "backend", "error_code")
    )
    sets = tuple(
        _text(sorted(names)).decode() if names else None for names in (chosen.types, chosen.statuses)
    )
    narrow = (*columns, *sets, chosen.task.tag)
    looked = _LOOKED if any(value is not None for value in narrow) else limit
    return (after, until, looked - 1, limit, *narrow)
