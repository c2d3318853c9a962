"""Progress of a running attempt, to the stream PROGRESS: at most two a second, and it may be lost.

The one rule: what is estimated is labelled so and never reaches the end. A preview is stored before the
progress that names it, at most one a second.
"""

import asyncio
from typing import Final

from msgspec.structs import replace

from schemas import events, previews
from schemas.errors import DisconnectedError
from schemas.events import Progress
from schemas.ids import TaskId
from schemas.subjects import progress_subject
from services.bus.connection import Bus
from services.bus.previews import Previews
from services.dispatcher.backends.base import Progressed

INTERVAL_S: Final = 0.5
PREVIEW_INTERVAL_S: Final = 1.0
_MOST: Final = 0.95


class Reporter:
    """Publishes one attempt's progress; estimates it from ``expected_s`` while the backend says nothing."""

    def __init__(self, bus: Bus, task_id: TaskId, attempt: int, expected_s: float | None) -> None:
        self._bus = bus
        self._previews = Previews(bus)
        self._task_id = task_id
        self._last = Progress(attempt=attempt, fraction=0.0)
        self._expected_s = expected_s
        self._begun_at = asyncio.get_running_loop().time()
        self._sent_at = 0.0
        self._previewed_at = float("-inf")
        self._measured = False

    async def measured(self, report: Progressed) -> None:
        """Pass on what the backend says."""
        self._measured = True
        self._last = replace(
            self._last, fraction=report.fraction, step=report.step, steps=report.steps, estimated=False
        )
        if self._due():
            await self._publish()

    async def estimate(self) -> None:
        """Say how far it should be by now, where the backend does not and the time it takes is known."""
        if self._measured or not self._expected_s or not self._due():
            return
        elapsed_s = asyncio.get_running_loop().time() - self._begun_at
        fraction = round(min(_MOST, elapsed_s / self._expected_s), 3)
        self._last = replace(self._last, fraction=fraction, estimated=True)
        await self._publish()

    async def previewed(self, image: bytes) -> None:
        """Pass a picture on that is another than the last one, and say so at once."""
        now = asyncio.get_running_loop().time()
        if now - self._previewed_at < PREVIEW_INTERVAL_S or previews.media_type(image) is None:
            return
        name = previews.name(image)
        if name == self._last.preview:
            return
        try:
            await self._previews.put(self._task_id, self._last.attempt, image)
        except DisconnectedError:
            return
        self._previewed_at = now
        self._last = replace(self._last, preview=name)
        await self._publish()

    def _due(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._sent_at < INTERVAL_S:
            return False
        self._sent_at = now
        return True

    async def _publish(self) -> None:
        try:
            await self._bus.send(progress_subject(self._task_id), events.encode(self._last))
        except DisconnectedError:
            return
