"""Tasks as they are, for a stream that cannot be gone on with from where its client was.

The one rule: the sequence from which it goes on is read before the first task is, so that no change falls
between; what happens meanwhile is in a document and is told once more, with a sequence that says so.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from schemas import readmodel
from schemas.errors import RejectedError
from schemas.event_filters import unfinished
from schemas.selections import Place
from services.api import frames
from services.api.frames import Reason, Reset, Snapshot
from services.api.hub import ENDLESS, Hub
from services.api.listeners import Topic
from services.api.lists import Lists
from services.api.queries import ReadModel, ReadModelAwayError
from services.api.reads import Reads

MOST: Final = 10_000
_PAGE: Final = 200


class ReplacedError(Exception):
    """Another file has come into the place of the one that was being shown."""


class Standing(NamedTuple):
    """From where a stream goes on after the snapshot, and what of the past there still is."""

    sequence: int
    oldest: int
    generation: int


class Snapshots:
    def __init__(self, model: ReadModel, hub: Hub, reads: Reads) -> None:
        self._model = model
        self._lists = Lists(model)
        self._hub = hub
        self._reads = reads

    def begin(self) -> Standing:
        """Say where things stand, in the file that is read from now on."""
        self._model.look()
        row = self._model.row(readmodel.PRUNED)
        gone = row[0] if row else 0
        # The hub may be behind the file, even behind what the file has let go of.
        return Standing(max(self._hub.position(), gone), gone + 1, self._model.generation)

    async def show(
        self, topic: Topic, standing: Standing, reason: Reason
    ) -> AsyncIterator[Sequence[bytes]]:
        """Give the frames, some at a time; without the last one it is no snapshot.

        ReplacedError where the file was another in the end.
        """
        yield [frames.reset(Reset(standing.sequence, standing.oldest, reason))]
        shown, before = 0, ENDLESS
        while before and shown < MOST:
            documents, before = await self._page(topic, before)
            shown += len(documents)
            yield [frames.task(document) for document in documents]
        if not self._model.still(standing.generation):
            raise ReplacedError
        yield [frames.snapshot(Snapshot(standing.sequence, shown, complete=not before))]

    async def _page(self, topic: Topic, before: int) -> tuple[list[bytes], int]:
        """Give documents, newest first, and before which the next ones are, 0 where there are none."""
        if topic.task is not None:
            return [(await self._reads.get(topic.task)).body], 0
        chosen = unfinished(topic.chosen)
        if chosen is None:
            return [], 0
        try:
            rows = await self._lists.rows(chosen, Place(before), _PAGE)
        except RejectedError as error:
            raise ReadModelAwayError(error.detail) from error
        return await self._reads.listed(rows), rows[-1][0] if len(rows) == _PAGE else 0
