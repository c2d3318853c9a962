"""Previews of running attempts in the stream PROGRESS: a task's latest, as the bytes it is.

The one rule: each may be lost without harm, so nothing waits for one to be stored.
"""

from typing import Final

import msgspec
from msgspec import Struct

from schemas import previews
from schemas.ids import TaskId
from schemas.subjects import PROGRESS, preview_subject
from services.bus.connection import Bus, status
from services.bus.stored import from_direct_get

_ROOM_FOR_HEADERS: Final = 1024


class Preview(Struct, frozen=True):
    attempt: int
    image: bytes
    media_type: str
    sequence: int


class Previews:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def put(self, task_id: TaskId, attempt: int, image: bytes) -> None:
        """Put it in the place of the one before; DisconnectedError while NATS is away.

        One that the server takes no message of is left out.
        """
        if len(image) + _ROOM_FOR_HEADERS <= self._bus.max_payload:
            await self._bus.send(preview_subject(task_id), image, {previews.ATTEMPT: str(attempt)})

    async def get(self, task_id: TaskId) -> Preview | None:
        """Read the latest, whichever attempt it is of; an UnavailableError while NATS is away."""
        body = msgspec.json.encode({"last_by_subj": preview_subject(task_id)})
        answer = await self._bus.request(f"$JS.API.DIRECT.GET.{PROGRESS}", body)
        if status(answer):
            return None
        stored = from_direct_get(answer)
        attempt = stored.headers.get(previews.ATTEMPT, "")
        media_type = previews.media_type(stored.body)
        if media_type is None or not attempt.isdecimal():
            return None
        return Preview(int(attempt), stored.body, media_type, stored.sequence)

    async def purge(self, task_id: TaskId) -> None:
        """Remove what there is of a task; an UnavailableError while NATS is away."""
        await self._bus.api(f"STREAM.PURGE.{PROGRESS}", {"filter": preview_subject(task_id)})
