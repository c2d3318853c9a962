"""One action on many tasks: which they are, and so many of them at once.

The one rule: what the log held when the request came is in the selection, or the request is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from schemas.errors import Code, OutcomeUnknownError, RejectedError, UnavailableError
from schemas.filters import Filter
from schemas.ids import TaskId
from services.api import lag
from services.api.lists import Lists
from services.api.queries import ReadModel
from services.bus.connection import ApiError, Bus

AT_ONCE: Final = 32
_PATIENCE_S: Final = 2.0

Failure = RejectedError | UnavailableError | ApiError | ConnectionError


class Selection:
    def __init__(self, bus: Bus, model: ReadModel) -> None:
        self._bus = bus
        self._model = model
        self._lists = Lists(model)

    async def ids(self, chosen: Filter, limit: int, *, without_successor: bool = False) -> list[TaskId]:
        """Select, once the read model has what the log holds now; RejectedError if that takes too long.

        The oldest come first.
        """
        await self._caught_up()
        return await self._lists.ids(chosen, limit, without_successor=without_successor)

    async def _caught_up(self) -> None:
        end = await lag.last_stored(self._bus)
        if not await lag.reached(self._model, end, _PATIENCE_S):
            raise RejectedError(Code.READ_MODEL_AWAY, "the read model is behind the log; nothing was done")


async def each(ids: Sequence[TaskId], act: Callable[[TaskId], Awaitable[None]]) -> Failure | None:
    """Act on each, in their order; gives the first failure, after which none is begun and all begun end."""
    left = iter(ids)
    failures: list[Failure] = []

    async def work() -> None:
        for task_id in left:
            if failures:
                return
            try:
                await act(task_id)
            except (RejectedError, UnavailableError, ApiError, ConnectionError) as error:
                failures.append(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    return failures[0] if failures else None


def broken_off(failure: Failure, what: str, done: dict[str, int]) -> RejectedError:
    """Say that an action ended early, and what had been done by then."""
    if isinstance(failure, RejectedError):
        code = failure.code
    else:
        unknown = isinstance(failure, OutcomeUnknownError | ConnectionError)
        code = Code.OUTCOME_UNKNOWN if unknown else Code.NATS_AWAY
    why = failure.detail if isinstance(failure, RejectedError) else "NATS stopped answering"
    return RejectedError(code, f"{why}; {what}; send the same again for the rest", done=done)
