"""What has become of each upload that came by its id: one small message for each, beside its bytes.

The one rule: a mark is changed only from what its writer has seen, so an upload that is given up and one
that is used or finished in the same moment are never the same.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from schemas import envelope
from schemas.ids import UploadId
from schemas.subjects import upload_mark_subject
from services.artifacts import ArtifactStore
from services.bus.connection import ApiError, Bus
from services.bus.stored import Stored
from services.bus.tasklog import SAME_GUARD_IN_FLIGHT, WRONG_LAST_SEQUENCE

MOVED_ON: Final = frozenset({WRONG_LAST_SEQUENCE, SAME_GUARD_IN_FLIGHT})
"""What the server says of a write whose writer has not seen the last one."""


class Stage(StrEnum):
    BEGUN = "begun"
    COMPLETE = "complete"  # and nobody has named it yet
    USED = "used"
    GONE = "gone"


class _Body(Struct, frozen=True):
    stage: Stage
    begun_at: datetime


class Mark(Struct, frozen=True):
    """``sequence`` is that of the message, by which the next one is guarded; ``at`` when it was stored."""

    stage: Stage
    begun_at: datetime
    sequence: int
    at: datetime


_decode: Final = msgspec.json.Decoder(_Body).decode


def decode(stored: Stored) -> Mark:
    body = _decode(stored.body)
    return Mark(body.stage, body.begun_at, stored.sequence, stored.at)


class Marks:
    """``keep``: for how long uploads are kept; none: for as long as can be."""

    def __init__(self, bus: Bus, store: ArtifactStore, keep: timedelta | None) -> None:
        self._bus = bus
        self._store = store
        self._keep = keep

    async def set(self, upload_id: UploadId, stage: Stage, begun_at: datetime, expected: int) -> int | None:
        """Mark an upload if its mark is still number ``expected`` (0: none yet); None if it is not."""
        headers = {
            envelope.EXPECTED_SEQUENCE: str(expected),
            "Nats-Rollup": "sub",
            **envelope.kept(self._keep),
        }
        body = msgspec.json.encode(_Body(stage, begun_at))
        try:
            return await self._bus.publish(upload_mark_subject(upload_id), body, headers)
        except ApiError as error:
            if error.code not in MOVED_ON:
                raise
            return None

    async def use(self, upload_id: UploadId) -> bool:
        """Note that a task names the upload, from when on nobody removes it; False if it was removed.

        What has no mark, since it came with a form, is nobody's to remove.
        """
        subject = upload_mark_subject(upload_id)
        while True:
            found = await self._store.last(subject)
            mark = decode(found[subject]) if found else None
            if mark is None or mark.stage is Stage.USED:
                return True
            if mark.stage is Stage.GONE:
                return False
            if await self.set(upload_id, Stage.USED, mark.begun_at, mark.sequence):
                return True
