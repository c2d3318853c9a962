"""How far the read model is behind the log.

The one rule: the checkpoint is read before the log is asked, so that the lag is never shown too small.
"""

import asyncio
from typing import Final

from schemas import readmodel
from schemas.errors import DisconnectedError, UnavailableError
from services.api.queries import ReadModel
from services.bus.connection import ApiError, Bus
from services.bus.streams import last_event

_PATIENCE_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.005


def applied(model: ReadModel) -> int:
    """Give the projector's checkpoint; ReadModelAwayError where it cannot be read."""
    row = model.row(readmodel.APPLIED_SEQUENCE)
    return row[0] if row else 0


async def reached(model: ReadModel, sequence: int, patience_s: float = _PATIENCE_S) -> bool:
    """Wait until the read model has that sequence, and say whether it has."""
    try:
        async with asyncio.timeout(patience_s):
            while applied(model) < sequence:  # noqa: ASYNC110 - the projector's hint may be lost
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        return False
    return True


async def last_stored(bus: Bus) -> int:
    """Give the sequence of the log's last event; UnavailableError says why it is not known."""
    if not bus.connected:
        raise DisconnectedError("not connected to NATS")
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await last_event(bus)
    except (UnavailableError, ApiError, TimeoutError) as error:
        raise UnavailableError(f"NATS does not answer: {error}") from error
