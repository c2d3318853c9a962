"""A read model made in one go: many times faster than as it comes, since nobody reads it yet.

The one rule: what comes of it is what the fold that follows makes of the same log, row for row. In memory
are the tasks that have not ended, and the ids of those that have; a task is rendered once, when it is over.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from schemas import readmodel, writing
from services.disk import to_disk
from services.projector.folding import Told, fold_into, in_transaction, written
from services.projector.projections import Fold
from services.projector.rows import Row

AT_ONCE: Final = 20_000
"""So many events are written in one transaction."""
_TAGS: Final = 500_000
"""So many of them are kept until they are written, since in order they are written twice as fast."""
_LATE: Final = 1000
# A file that is being made is thrown away with who makes it, so nothing guards it before the end.
_PRAGMAS: Final = (
    "journal_mode=OFF",
    "synchronous=OFF",
    "locking_mode=EXCLUSIVE",
    "temp_store=MEMORY",
    "cache_size=-65536",
    "mmap_size=2000000000",
)


class Building:
    """A new file at ``path``, for the stream of that identity. Not there until it is ``finished``."""

    def __init__(self, path: Path, stream: str) -> None:
        self._path = path
        self._stream = stream
        self._fold = Fold(0, {})
        self._sequence = 0
        self._batches: list[Row] = []
        self.events = 0
        self._database = sqlite3.connect(path, isolation_level=None)
        for pragma in _PRAGMAS:
            self._database.execute(f"PRAGMA {pragma}").fetchall()
        self._database.executescript(readmodel.TABLES)

    def take(self, told: Iterable[Told]) -> None:
        """Fold what comes next in the log."""
        apply = self._fold.apply
        for address, event in told:
            apply(event, address)
            self.events += 1
            self._sequence = max(self._sequence, event.sequence)
        if len(self._fold.events) >= AT_ONCE:
            in_transaction(self._database, self._drained())

    def take_batches(self, rows: list[Row]) -> None:
        """Take batches over as they are, since some of their tasks may be no more."""
        self._batches += rows

    def _drained(self) -> Iterator[tuple[str, Iterable[Row]]]:
        """Give what will not change any more, and forget it."""
        fold = self._fold
        yield writing.UPSERT_TASK, fold.let_go()
        yield writing.INSERT_EVENT, fold.events
        yield writing.INSERT_MOMENT, fold.tallies.moments
        if len(fold.tags) > _TAGS:
            yield writing.INSERT_TAG, sorted(fold.tags)
            fold.tags.clear()
        fold.events.clear()
        fold.tallies.moments.clear()

    def finish(self, pruned: int = 0) -> int:
        """Write the rest, make the indexes and let it be read; gives the checkpoint.

        ``pruned``: as the checkpoint of the file that old tasks were taken from has it.
        """
        database, fold = self._database, self._fold
        fold.tags.sort()
        erased = list(fold.erased)
        fold.erased.clear()  # their events can be found only once there is an index
        in_transaction(database, self._drained())
        database.executescript(readmodel.INDEXES)
        fold.erased += erased
        values = (self._stream, readmodel.SCHEMA_VERSION)
        database.execute(writing.INIT_CHECKPOINT, (0, *values))
        in_transaction(
            database,
            (
                *written(fold),
                (writing.REPLACE_BATCH, self._batches),
                (writing.SET_CHECKPOINT, [(self._sequence, fold.ignored, self._sequence)]),
                (writing.SET_PRUNED, [(pruned,)]),
            ),
        )
        late = iter(fold.late)
        while some := list(islice(late, _LATE)):
            fold_into(database, list(some), self._sequence)
        self._close()
        return self._sequence

    def _close(self) -> None:
        for pragma in ("locking_mode=NORMAL", "journal_mode=WAL"):
            self._database.execute(f"PRAGMA {pragma}").fetchall()
        self._database.close()
        to_disk(self._path)
