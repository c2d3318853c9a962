"""A command's way to NATS, for those that go past the api."""

import asyncio
from typing import Final

from services import telemetry
from services.bus.connection import Bus
from services.cli.failures import AwayError
from services.settings import Settings, masked

PATIENCE_S: Final = 5.0


async def reach(settings: Settings, command: str) -> Bus:
    """Connect, in silence, for a command of that name; AwayError where nobody answers."""
    telemetry.configure(command, "error", "text")  # what the connection would tell
    bus = Bus(settings.bus_url, f"taskfold {command}")
    try:
        async with asyncio.timeout(PATIENCE_S):
            await bus.connect()
    except TimeoutError:
        raise AwayError(
            f"cannot reach NATS at {masked(settings.bus_url)}; "
            "start it, or name another with TASKFOLD_NATS_URL"
        ) from None
    return bus
