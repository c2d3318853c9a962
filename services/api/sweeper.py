"""Ending what is overdue, and what else one api does for all: that which holds the role.

The one rule: the role saves work and proves nothing; each end is decided on a lookup and guarded.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

import structlog

from schemas import envelope, readmodel
from schemas.commands import ExpireTask, Refusal, decide
from schemas.errors import UnavailableError
from schemas.ids import TaskId
from schemas.lease import Lease
from schemas.subjects import SWEEPER, address_of
from services.api.cancelling import purge
from services.api.queries import ReadModel, ReadModelAwayError
from services.bus.connection import ApiError
from services.bus.tasklog import LostRaceError, TaskLog
from services.leases import Held, Leases

log = structlog.get_logger()

_AT_ONCE: Final = 200
_PATIENCE_S: Final = 2.0


class Sweeper:
    """``others``: what is to be done as often beside ending overdue tasks."""

    def __init__(
        self,
        leases: Leases,
        tasklog: TaskLog,
        model: ReadModel,
        others: Sequence[Callable[[], Awaitable[None]]],
        now: Callable[[], datetime],
        interval_s: float,
    ) -> None:
        self._leases = leases
        self._tasklog = tasklog
        self._model = model
        self._jobs = (self._sweep, *others)
        self._now = now
        self._interval_s = interval_s
        self._held: Held | None = None

    async def run(self) -> None:
        """Look for overdue tasks while the role is ours; runs until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            if await self._is_ours():
                for job in self._jobs:
                    await _unhindered(job)

    async def resign(self) -> None:
        """Let another take over at once."""
        if self._held is not None:
            await self._held.release()

    async def _is_ours(self) -> bool:
        """Say whether the role is held, and try to take it where it is free or its holder is gone."""
        if self._held is not None and self._held.lost:
            self._leases.forget(self._held)
            self._held = None
        if self._held is not None:
            return self._held.valid
        if not self._leases.known.is_set():
            return False
        try:
            self._held = await self._leases.take(SWEEPER, Lease(since=self._now()))
        except ApiError as error:
            log.warning("sweeper.refused", error=str(error))
        if self._held is not None:
            log.info("sweeper.taken")
        return self._held is not None

    async def _sweep(self) -> None:
        overdue = self._model.rows(readmodel.OVERDUE, envelope.timestamp(self._now()), _AT_ONCE)
        for task_id, address in overdue:
            await self._expire(task_id, address)

    async def _expire(self, task_id: TaskId, stored_address: str) -> None:
        address = address_of(stored_address)
        found = await self._tasklog.lookup(task_id, address)
        decision = decide(found.task, ExpireTask(), self._now())
        if isinstance(decision, Refusal):
            return  # the read model is behind
        try:
            await self._tasklog.append(
                address, decision, expected=found.last, patience_s=_PATIENCE_S, more=purge(found)
            )
        except LostRaceError:
            return  # what came first decides; the next look sees it
        log.info("task.expired", task_id=task_id)


async def _unhindered(job: Callable[[], Awaitable[None]]) -> None:
    """Do it if that is possible now; the next look tries again."""
    try:
        await job()
    except (ReadModelAwayError, UnavailableError, ApiError) as error:
        log.warning("sweeper.hindered", error=str(error))
