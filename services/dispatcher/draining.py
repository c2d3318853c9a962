"""Waiting until a GPU is free of what must not, or cannot, be waited for by its task.

The one rule: only the backend's word frees a slot, or where its protocol has none, the time the work takes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Final

import structlog

from schemas.lease import Lease
from services import clock
from services.dispatcher.instances import Instance
from services.dispatcher.policies.health import STUCK_OPEN
from services.process import background
from services.settings import Settings

log = structlog.get_logger()

_LOOK_S: Final = 1.0
_MARGIN: Final = 0.5
"""By what part of its time a run may take longer than expected, where only the clock tells its end."""


@contextlib.asynccontextmanager
async def minded(instance: Instance, key: str, after_s: float) -> AsyncIterator[None]:
    """Show a backend as stuck for as long as the block lasts longer than ``after_s``."""
    cried = False

    async def cry() -> None:
        nonlocal cried
        await asyncio.sleep(after_s)
        log.warning("slot.stuck", slot=key, after_s=after_s)
        while True:
            cried = True
            instance.stuck(f"slot {key} does not come free")
            await asyncio.sleep(STUCK_OPEN.total_seconds() / 2)

    try:
        async with background(cry()):
            yield
    finally:
        if cried:
            log.info("slot.unstuck", slot=key)
            instance.unstuck()


async def drain_lost(instance: Instance, key: str, lost: Lease, settings: Settings) -> None:
    """Wait until what a lost attempt left on a GPU has ended: by its own signal, else by the clock."""
    until = _surely_ended_at(lost) or clock.now() + timedelta(seconds=settings.unknown_run_s)
    async with minded(instance, key, settings.stuck_after_s):
        while instance.adapter is not None:
            idle = await instance.adapter.idle(lost.remote_id, lost.task_id)
            rest_s = (until - clock.now()).total_seconds()
            if idle or (idle is None and rest_s <= 0):
                return
            await asyncio.sleep(_LOOK_S if idle is False else min(_LOOK_S, rest_s))


def _surely_ended_at(lost: Lease) -> datetime | None:
    if lost.expected_end_at is None or lost.since is None:
        return lost.expected_end_at
    return lost.expected_end_at + _MARGIN * (lost.expected_end_at - lost.since)
