"""Submitting again what has failed, all that a filter means.

The one rule: a task is redriven once. Its successor stands in its place, and is redriven itself if need be.
The successor's id is derived from the task's, so that it is made once, whoever asks at the same time.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from schemas import intake, replay
from schemas.batches import MOST_REDRIVEN, SHOWN, Redriven, RedrivenMany, Refused
from schemas.checking import Raw
from schemas.errors import Code, RejectedError
from schemas.filters import Filter
from schemas.ids import TaskId, derived_uuid
from schemas.task import Status
from services.api import many
from services.api.many import Selection
from services.api.origins import Origins
from services.api.submit import Submitter, Wish

_PREFIX: Final = "change."
_SHOWN_REFUSALS: Final = 100
_BREATHE_AFTER: Final = 50
_FULL: Final = frozenset({Code.QUEUE_FULL, Code.TENANT_QUEUE_FULL, Code.STORAGE_FULL})
_STOPS: Final = _FULL | {Code.OUTCOME_UNKNOWN, Code.NATS_AWAY}


class _Tally:
    """What became of each so far."""

    def __init__(self) -> None:
        self.made: list[Redriven] = []
        self.already = 0
        self.refused: list[Refused] = []
        self.first: RejectedError | None = None

    def refuse(self, task_id: TaskId, error: RejectedError) -> None:
        self.refused.append(Refused(task_id, error.code, error.detail))
        self.first = self.first or error


class Redriver:
    def __init__(self, selection: Selection, origins: Origins, submitter: Submitter) -> None:
        self._selection = selection
        self._origins = origins
        self._submitter = submitter

    async def redrive(self, chosen: Filter, change: Raw) -> RedrivenMany:
        """Make at most MOST_REDRIVEN tasks, for the oldest first.

        RejectedError where ``change`` does not fit a task that is meant: then nothing was stored; and where
        NATS goes away: its ``done`` says how far it came.
        """
        chosen = replace(chosen, status=chosen.status or (Status.FAILED,))
        self._submitter.ready()
        ids = await self._selection.ids(chosen, MOST_REDRIVEN + 1, without_successor=True)
        matched, tally = ids[:MOST_REDRIVEN], _Tally()
        await self._check(matched, change)

        async def make(task_id: TaskId) -> None:
            await self._make(await self._wish(task_id, change), task_id, tally)

        failure = await many.each(matched, make)
        if failure is None and tally.first and len(tally.refused) == len(matched):
            raise tally.first
        stopped = failure.code if isinstance(failure, RejectedError) and failure.code in _FULL else None
        if failure is not None and not (stopped and tally.made):
            done = {"matched": len(matched), "made": len(tally.made)}
            said = f"{len(tally.made)} of {len(matched)} tasks are made again"
            raise many.broken_off(failure, said, done)
        return RedrivenMany(
            matched=len(matched),
            made=len(tally.made),
            already_redriven=tally.already,
            refused=len(tally.refused),
            more=stopped is not None or len(ids) > len(matched),
            stopped=stopped,
            tasks=tuple(tally.made[:SHOWN]),
            refusals=tuple(tally.refused[:_SHOWN_REFUSALS]),
        )

    async def _check(self, ids: Sequence[TaskId], change: Raw) -> None:
        """Refuse a change that does not fit one of them, before anything is stored."""
        for number, task_id in enumerate(ids):
            if number % _BREATHE_AFTER == 0:
                await asyncio.sleep(0)
            try:
                await self._wish(task_id, change)
            except RejectedError as error:
                member = f"{_PREFIX}{error.member}" if error.member else None
                raise RejectedError(
                    error.code, f"{error.detail} (for {task_id})", member=member, task_id=task_id
                ) from error

    async def _wish(self, task_id: TaskId, change: Raw) -> Wish:
        origin = await self._origins.get(task_id)
        body = replay.again(origin.made, task_id, origin.submitted_at, change)
        return Wish(
            task_id=TaskId(derived_uuid(f"redrive:{task_id}")),
            intake=body,
            fingerprint=intake.fingerprint(body),
            tenant=origin.made.tenant,
            named=True,
            prefix="request.",
        )

    async def _make(self, wish: Wish, origin: TaskId, tally: _Tally) -> None:
        try:
            receipt = await self._submitter.submit(wish)
        except RejectedError as error:
            if error.code in _STOPS:
                raise
            if error.code is Code.IDEMPOTENCY_KEY_REUSED:  # somebody else's, with another change
                tally.already += 1
            else:
                tally.refuse(origin, error)
            return
        if receipt.replayed:
            tally.already += 1
        else:
            tally.made.append(Redriven(receipt.task_id, origin))
