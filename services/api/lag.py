"""How far the read model is behind the log.

The one rule: the checkpoint is read before the log is asked, so that the lag is never shown too small.
"""

import asyncio
from typing import Final

from schemas import readmodel
from schemas.errors import DisconnectedError, UnavailableError
from services.api.queries import ReadModel
from services.bus.connection import Bus
from services.bus.streams import last_event

_PATIENCE_S: Final = 1.0


def applied(model: ReadModel) -> int:
    """Give the projector's checkpoint; ReadModelAwayError where it cannot be read."""
    row = model.row(readmodel.APPLIED_SEQUENCE)
    return row[0] if row else 0


async def last_stored(bus: Bus) -> int:
    """Give the sequence of the log's last event; UnavailableError says why it is not known."""
    if not bus.connected:
        raise DisconnectedError("not connected to NATS")
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await last_event(bus)
    except (UnavailableError, TimeoutError) as error:
        raise UnavailableError(f"NATS does not answer: {error}") from error
