"""A rig whose log is as it would be after many days.

The one rule: what is asked for later is known from the seed, so that nothing is kept of the history.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from msgspec import Struct

from benchmarks import history
from benchmarks.rig import Rig
from schemas.ids import TaskId
from services import clock
from services.gpusim.model import chance

SEED: Final = 1
PATIENCE_S: Final = 3600.0


class Grown(Struct, frozen=True):
    """What a log was filled with: so many tasks up to a moment, so many messages."""

    tasks: int
    until: datetime
    messages: int
    took_s: float

    def task_id(self, number: int) -> TaskId:
        return history.task_id(SEED, number, self.tasks, self.until)

    def scattered(self, count: int) -> Iterator[TaskId]:
        """Give the ids of tasks drawn by lot."""
        return (self.task_id(int(self.tasks * chance(SEED, "asked", each))) for each in range(count))


async def grow(rig: Rig, tasks: int) -> Grown:
    """Fill the empty log; before anything is started."""
    until = clock.now()
    options = ("--tasks", str(tasks), "--seed", str(SEED), "--until", until.isoformat())
    said = await rig.beside("benchmarks.filling", rig.settings.bus_url, *options, patience_s=PATIENCE_S)
    messages, took_s = said.split()
    return Grown(tasks, until, int(messages), float(took_s))
