"""Cancelling all tasks that a filter means.

The one rule: each is cancelled as a single one is, by its own guard; what has ended stays as it is.
"""

from typing import Final

from msgspec.structs import replace

from schemas.batches import MOST_CANCELLED, SHOWN, CancelledMany
from schemas.errors import Code, RejectedError
from schemas.filters import UNFINISHED, Filter
from schemas.ids import TaskId
from services.api import many
from services.api.cancelling import CANCELLED, Canceller
from services.api.many import Selection

_FORGOTTEN: Final = "FORGOTTEN"


class ManyCanceller:
    def __init__(self, selection: Selection, canceller: Canceller) -> None:
        self._selection = selection
        self._canceller = canceller

    async def cancel(self, chosen: Filter, by: str, reason: str | None) -> CancelledMany:
        """Cancel at most MOST_CANCELLED, the oldest first.

        RejectedError where NATS goes away; its ``done`` says how far it came.
        """
        chosen = replace(chosen, status=chosen.status or UNFINISHED)
        ids = await self._selection.ids(chosen, MOST_CANCELLED + 1)
        matched, outcomes = ids[:MOST_CANCELLED], dict[TaskId, str]()

        async def cancel(task_id: TaskId) -> None:
            outcomes[task_id] = await self._one(task_id, by, reason)

        failure = await many.each(matched, cancel)
        cancelled = [task_id for task_id, outcome in outcomes.items() if outcome == CANCELLED]
        if failure is not None:
            done = {"matched": len(matched), "cancelled": len(cancelled)}
            said = f"{len(cancelled)} of {len(matched)} tasks are cancelled"
            raise many.broken_off(failure, said, done)
        unchanged = sum(outcome == _FORGOTTEN for outcome in outcomes.values())
        return CancelledMany(
            matched=len(matched),
            cancelled=len(cancelled),
            already_finished=len(matched) - len(cancelled) - unchanged,
            unchanged=unchanged,
            more=len(ids) > len(matched),
            task_ids=tuple(cancelled[:SHOWN]),
        )

    async def _one(self, task_id: TaskId, by: str, reason: str | None) -> str:
        try:
            return (await self._canceller.cancel(task_id, by, reason)).name
        except RejectedError as error:
            if error.code is Code.UNKNOWN_TASK:
                return _FORGOTTEN
            raise
