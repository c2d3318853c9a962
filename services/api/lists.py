"""Lists of tasks: a page either way from a cursor, and all that a filter means.

The one rule: a page has the tasks next to its cursor, so that new ones never shift it; and what is searched
for in texts is answered for every task that there was when the question came, or not at all.
"""

import asyncio
import base64
import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlencode

from schemas import selections, textindex
from schemas.errors import Code, RejectedError
from schemas.filters import Filter
from schemas.ids import TaskId
from schemas.selections import Place, Query
from services.api.queries import ReadModel, Row, TextIndexAwayError

_PATIENCE_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.01
_CURSOR: Final = re.compile(r"(-?)(\d{1,19})")
_PERCENT: Final = 100


class Page(NamedTuple):
    """Rows as ``selections.list_tasks`` gives them; the cursors are None where there is nothing."""

    rows: list[Row]
    next: str | None
    prev: str | None

    def links(self, path: str, query: Mapping[str, str]) -> str:
        """Give the value of ``Link`` (RFC 8288), empty where the page is the only one."""
        ways = (("next", self.next), ("prev", self.prev))
        return ", ".join(
            f'<{path}?{urlencode({**query, "cursor": cursor})}>; rel="{way}"'
            for way, cursor in ways
            if cursor
        )


class Lists:
    def __init__(self, model: ReadModel) -> None:
        self._model = model

    async def page(self, chosen: Filter, cursor: str | None, limit: int) -> Page:
        """Give the tasks next to a cursor, newest first; RejectedError while the text index is behind."""
        place = _place(cursor)
        measured = await self._measured(chosen)
        rows = await self._ask(chosen, selections.list_tasks(chosen, place, limit + 1, measured))
        more = len(rows) > limit
        if more:
            rows.pop(0 if place.newer else -1)
        back = None
        if cursor is not None:
            back = await self._behind(chosen, place, rows, measured)
        ahead = _cursor(rows[0 if place.newer else -1][0], newer=place.newer) if more else None
        return Page(rows, back, ahead) if place.newer else Page(rows, ahead, back)

    async def rows(self, chosen: Filter, place: Place, limit: int) -> list[Row]:
        """Give the tasks next to a place, newest first, with nothing around them."""
        measured = await self._measured(chosen)
        return await self._ask(chosen, selections.list_tasks(chosen, place, limit, measured))

    async def ids(self, chosen: Filter, limit: int, *, without_successor: bool) -> list[TaskId]:
        """Give the ids of all that are meant, oldest first."""
        measured = await self._measured(chosen)
        query = selections.select_tasks(chosen, limit, measured, without_successor=without_successor)
        return [row[0] for row in await self._ask(chosen, query)]

    async def _behind(
        self, chosen: Filter, place: Place, rows: Sequence[Row], measured: Sequence[int]
    ) -> str | None:
        """Give the cursor back to where a page was come from, if there is anything."""
        number = rows[-1 if place.newer else 0][0] if rows else place.number + (1 if place.newer else -1)
        query = selections.one_side(chosen, Place(number, not place.newer), 1, measured)
        return _cursor(number, newer=not place.newer) if await self._ask(chosen, query) else None

    async def _measured(self, chosen: Filter) -> Sequence[int]:
        if chosen.text is not None:
            await self._caught_up()
        query = selections.measure(chosen)
        return (await self._ask(chosen, query))[0] if query else ()

    async def _ask(self, chosen: Filter, query: Query) -> list[Row]:
        try:
            return await self._model.page(*query, text=chosen.text is not None)
        except TextIndexAwayError:
            raise _behind(0) from None

    async def _caught_up(self) -> None:
        """Wait until the text index has every task that the read model has now."""
        indexed, wanted = 0, None
        end_at = asyncio.get_running_loop().time() + _PATIENCE_S
        while True:
            with contextlib.suppress(TextIndexAwayError):
                [(indexed, last)] = await self._model.page(textindex.HOW_FAR, (), text=True)
                wanted = last if wanted is None else wanted
                if indexed >= wanted:
                    return
            if asyncio.get_running_loop().time() > end_at:
                raise _behind(indexed * _PERCENT // wanted if wanted else 0)
            await asyncio.sleep(_LOOK_AGAIN_S)


def _behind(percent: int) -> RejectedError:
    return RejectedError(
        Code.READ_MODEL_AWAY, f"the text index is being built; it has {percent} % of the log", member="text"
    )


def _cursor(number: int, *, newer: bool) -> str:
    return base64.urlsafe_b64encode(f"{'-' if newer else ''}{number}".encode()).decode()


def _place(cursor: str | None) -> Place:
    """Read a cursor: a number, with a minus where the page is of newer tasks."""
    if cursor is None:
        return Place()
    try:
        found = _CURSOR.fullmatch(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode())
    except ValueError:
        found = None
    if found is None or int(found[2]) > Place().number:
        raise RejectedError(Code.OUT_OF_RANGE, "cursor is what `next` or `prev` gave", member="cursor")
    return Place(int(found[2]), newer=bool(found[1]))
