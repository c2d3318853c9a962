"""Queries of the read model that are put together from a filter.

The one rule: what a client said is always a parameter; the text is made of constants that stand here and
in ``leads``. SQLite has no figures by which it could choose an index, so it is told.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from schemas import readmodel
from schemas.filters import Filter
from schemas.leads import EVERYTHING, Lead, Where, by_words, leads, values, wheres

_NEWEST: Final = 2**63 - 1


class Query(NamedTuple):
    """A query that is put together, and what stands for its question marks."""

    text: str
    parameters: tuple[object, ...]


class Place(NamedTuple):
    """Where a page begins: behind that number, on the side of the older tasks or of the newer ones."""

    number: int = _NEWEST
    newer: bool = False


def measure(chosen: Filter) -> Query | None:
    """Ask of each lead, but for that of words, how many it leaves; None where nothing is to be chosen."""
    found = _measured(chosen)
    if not found or (len(found) == 1 and found[0].in_order and chosen.text is None):
        return None
    parameters = tuple(value for lead in found for way in lead.ways for value in way.values)
    return Query(f"SELECT {', '.join(map(_counted, found))}", parameters)


def list_tasks(chosen: Filter, place: Place, limit: int, measured: Sequence[int] = ()) -> Query:
    """Ask for a page of tasks, newest first: number, document, progress, and what their standing needs.

    ``measured``: the answer to ``measure``.
    """
    found = one_side(chosen, place, limit, measured)
    return Query(_LIST.format(found=found.text), found.parameters)


def one_side(chosen: Filter, place: Place, limit: int, measured: Sequence[int] = ()) -> Query:
    """Ask for the numbers of the tasks next to a place."""
    return _numbers(chosen, limit, measured, place)


def select_tasks(
    chosen: Filter, limit: int, measured: Sequence[int] = (), *, without_successor: bool = False
) -> Query:
    """Ask for the ids of tasks, oldest first."""
    more = (Where(_NO_SUCCESSOR),) if without_successor else ()
    found = _numbers(chosen, limit, measured, Place(0, newer=True), *more)
    return Query(_SELECT.format(found=found.text), found.parameters)


# Numbers first, whose order needs no rows; the rows of those few after that.
_LIST: Final = f"""
SELECT t.number, t.doc, p.doc, {readmodel.STANDING}
FROM ({{found}}) AS found
JOIN tasks t ON t.number = found.number LEFT JOIN progress p ON p.task_id = t.task_id
ORDER BY t.number DESC
"""  # noqa: S608 - as above
_SELECT: Final = """
SELECT t.task_id
FROM ({found}) AS found JOIN tasks t ON t.number = found.number
ORDER BY t.number
"""
_NO_SUCCESSOR: Final = "NOT EXISTS (SELECT 1 FROM tasks s WHERE s.origin = t.task_id)"
# A task that came earlier has the smaller number, so times of submission are a range of numbers; and what
# ended before a moment came before it. SQLite looks for one bound on each side, so there is only one.
_FIRST_FROM: Final = (
    "coalesce((SELECT number - 1 FROM tasks WHERE submitted_at >= ?"
    " ORDER BY submitted_at, number LIMIT 1), 9223372036854775807)"
)
_LAST_BEFORE: Final = (
    "coalesce((SELECT number + 1 FROM tasks WHERE submitted_at < ?"
    " ORDER BY submitted_at DESC, number DESC LIMIT 1), 0)"
)


def _measured(chosen: Filter) -> list[Lead]:
    return [lead for lead in leads(chosen) if not by_words(lead)]


def _counted(lead: Lead) -> str:
    some = [
        f"SELECT * FROM (SELECT 1 FROM {lead.source} WHERE {way.text} LIMIT {lead.few})"  # noqa: S608 - constants of these modules
        for way in lead.ways
    ]
    return f"(SELECT count(*) FROM ({' UNION ALL '.join(some)} LIMIT {lead.few}))"  # noqa: S608 - as above


def _numbers(chosen: Filter, limit: int, measured: Sequence[int], place: Place, *more: Where) -> Query:
    """Select the numbers of what is meant next to a place."""
    lead, order = _choice(chosen, measured), "ASC" if place.newer else "DESC"
    rest = [where for member, where in wheres(chosen) if member not in lead.members]
    parts, parameters = [], list[object]()
    for way in lead.ways:
        every = [way, *rest, *_bounds(chosen, place), *more]
        conditions = " AND ".join(where.text for where in every).format(number=lead.number)
        parts.append(
            f"SELECT {lead.number} AS number FROM {lead.source} WHERE {conditions}"  # noqa: S608 - as above
            f" ORDER BY 1 {order} LIMIT ?"
        )
        parameters += [*(value for where in every for value in where.values), limit]
    if len(parts) == 1:
        return Query(parts[0], tuple(parameters))
    each = " UNION ALL ".join(f"SELECT * FROM ({part})" for part in parts)  # noqa: S608 - as above
    return Query(f"{each} ORDER BY 1 {order} LIMIT ?", (*parameters, limit))


def _choice(chosen: Filter, measured: Sequence[int]) -> Lead:
    """Choose what leaves few, else the first that has its tasks in order."""
    few = [
        (count, at)
        for at, (lead, count) in enumerate(zip(_measured(chosen), measured, strict=False))
        if count < lead.few
    ]
    if few:
        return _measured(chosen)[min(few)[1]]
    return next((lead for lead in leads(chosen) if lead.in_order), EVERYTHING)


def _bounds(chosen: Filter, place: Place) -> list[Where]:
    """Give between which numbers the tasks are."""
    here = Where("?", (place.number,))
    lowest = [here] if place.newer else []
    highest = [] if place.newer else [here]
    lowest += [Where(_FIRST_FROM, values(at)) for at in (chosen.submitted_after,) if at]
    highest += [
        Where(_LAST_BEFORE, values(at)) for at in (chosen.submitted_before, chosen.finished_before) if at
    ]
    return [
        Where(f"{{number}} {side}", tuple(value for bound in bounds for value in bound.values))
        for side, bounds in ((_closest("> max", lowest), lowest), (_closest("< min", highest), highest))
        if bounds
    ]


def _closest(said: str, bounds: Sequence[Where]) -> str:
    """Compare with the closest of some bounds; of one alone SQLite would make a sum over all rows."""
    texts = ", ".join(bound.text for bound in bounds)
    return f"{said}({texts})" if len(bounds) > 1 else f"{said[0]} {texts}"
