"""Queries of the read model that are put together from a filter.

The one rule: what a client said is always a parameter; the text is made of constants that stand here.
"""

from datetime import datetime
from typing import Final, NamedTuple

from schemas import envelope, readmodel
from schemas.filters import Filter
from schemas.ids import slug


class Query(NamedTuple):
    """A query that is put together, and what stands for its question marks."""

    text: str
    parameters: tuple[object, ...]


def list_tasks(chosen: Filter, before: int, limit: int) -> Query:
    """Ask for a page of tasks, newest first: number, document, progress, and what their standing needs."""
    found = _numbers(chosen, _Where("t.number < ?", (before,)))
    return Query(_LIST.format(found=found.text), (*found.parameters, limit))


def select_tasks(chosen: Filter, limit: int, *, without_successor: bool = False) -> Query:
    """Ask for the ids of tasks, oldest first."""
    found = _numbers(chosen, *((_Where(_NO_SUCCESSOR),) if without_successor else ()))
    return Query(_SELECT.format(found=found.text), (*found.parameters, limit))


# Numbers first, whose order needs no rows; the rows of those few after that.
_LIST: Final = f"""
SELECT t.number, t.doc, p.doc, {readmodel.STANDING}
FROM ({{found}} ORDER BY 1 DESC LIMIT ?) AS found
JOIN tasks t ON t.number = found.number LEFT JOIN progress p ON p.task_id = t.task_id
ORDER BY t.number DESC
"""  # noqa: S608 - as above
_SELECT: Final = """
SELECT t.task_id
FROM ({found} ORDER BY 1 LIMIT ?) AS found JOIN tasks t ON t.number = found.number
ORDER BY t.number
"""
_NO_SUCCESSOR: Final = "NOT EXISTS (SELECT 1 FROM tasks s WHERE s.origin = t.task_id)"
# A task that came earlier has the smaller number, so times of submission are a range of numbers.
_FIRST_FROM: Final = (
    "t.number >= (SELECT number FROM tasks WHERE submitted_at >= ? ORDER BY submitted_at, number LIMIT 1)"
)
_LAST_BEFORE: Final = (
    "t.number <= (SELECT number FROM tasks WHERE submitted_at < ?"
    " ORDER BY submitted_at DESC, number DESC LIMIT 1)"
)


class _Where(NamedTuple):
    """A condition. ``by``: the index by which it finds its tasks, best in order of number."""

    text: str
    values: tuple[object, ...] = ()
    by: str | None = None


def _numbers(chosen: Filter, *more: _Where) -> Query:
    """Select the numbers of what is meant. SQLite has no figures to choose an index by, so it is told."""
    wheres = _wheres(chosen)
    index = next((where.by for where in wheres if where.by), None)
    number, source = "t.number", f"tasks t INDEXED BY {index}" if index else "tasks t NOT INDEXED"
    if chosen.tag is not None:  # a CROSS JOIN is done as written: the tag's numbers first, in their order
        number, source = "g.number", "tags g CROSS JOIN tasks t NOT INDEXED ON t.number = g.number"
        wheres = [_Where("g.tag = ?", (chosen.tag,)), *wheres]
    every = [*wheres, *more] or [_Where("1")]
    text = f"SELECT {number} FROM {source} WHERE {' AND '.join(where.text for where in every)}"  # noqa: S608 - constants of this module; what a client said is a parameter
    return Query(text, tuple(value for where in every for value in where.values))


def _wheres(chosen: Filter) -> list[_Where]:
    """Give the conditions of a filter, those first that leave least over."""
    statuses = ", ".join("?" * len(chosen.status))
    by_status = "tasks_by_kind_and_status" if chosen.kind else "tasks_by_status"
    conditions = (
        ("t.batch = ?", chosen.batch, "tasks_by_batch"),
        ("t.user = ?", chosen.user, "tasks_by_user"),
        ("t.error_code = ?", chosen.error, "tasks_by_error"),
        ("t.backend = ?", chosen.backend, "tasks_by_backend"),
        (f"t.status IN ({statuses})", chosen.status or None, by_status),
        ("t.model = ?", chosen.model and slug(chosen.model), "tasks_by_model"),
        ("t.finished_at >= ?", chosen.finished_after, "tasks_by_end"),
        ("t.finished_at < ?", chosen.finished_before, "tasks_by_end"),
        ("t.tenant = ?", chosen.tenant, "tasks_by_tenant"),
        ("t.kind = ?", chosen.kind, "tasks_by_kind"),
        ("t.priority = ?", chosen.priority, None),
        (_FIRST_FROM, chosen.submitted_after, None),
        ("t.submitted_at >= ?", chosen.submitted_after, None),
        (_LAST_BEFORE, chosen.submitted_before, None),
        ("t.submitted_at < ?", chosen.submitted_before, None),
    )
    return [_Where(text, _values(value), by) for text, value, by in conditions if value is not None]


def _values(value: object) -> tuple[object, ...]:
    """Spell a value as its column does."""
    match value:
        case tuple():
            return value
        case datetime():
            return (envelope.timestamp(value),)
        case _:
            return (value,)
