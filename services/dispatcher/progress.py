"""Progress of a running attempt, to the stream PROGRESS: at most two a second, and it may be lost.

The one rule: what is estimated is labelled so and never reaches the end.
"""

import asyncio
from typing import Final

from schemas import events
from schemas.errors import DisconnectedError
from schemas.events import Progress
from schemas.ids import TaskId
from schemas.subjects import progress_subject
from services.bus.connection import Bus
from services.dispatcher.backends.base import Progressed

INTERVAL_S: Final = 0.5
_MOST: Final = 0.95


class Reporter:
    """Publishes one attempt's progress; estimates it from ``expected_s`` while the backend says nothing."""

    def __init__(self, bus: Bus, task_id: TaskId, attempt: int, expected_s: float | None) -> None:
        self._bus = bus
        self._subject = progress_subject(task_id)
        self._attempt = attempt
        self._expected_s = expected_s
        self._begun_at = asyncio.get_running_loop().time()
        self._sent_at = 0.0
        self._measured = False

    async def measured(self, report: Progressed) -> None:
        """Pass on what the backend says."""
        self._measured = True
        if self._due():
            await self._publish(
                Progress(
                    attempt=self._attempt, fraction=report.fraction, step=report.step, steps=report.steps
                )
            )

    async def estimate(self) -> None:
        """Say how far it should be by now, where the backend does not and the time it takes is known."""
        if self._measured or not self._expected_s or not self._due():
            return
        elapsed_s = asyncio.get_running_loop().time() - self._begun_at
        fraction = round(min(_MOST, elapsed_s / self._expected_s), 3)
        await self._publish(Progress(attempt=self._attempt, fraction=fraction, estimated=True))

    def _due(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._sent_at < INTERVAL_S:
            return False
        self._sent_at = now
        return True

    async def _publish(self, progress: Progress) -> None:
        try:
            await self._bus.send(self._subject, events.encode(progress))
        except DisconnectedError:
            return
