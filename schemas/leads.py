"""Where a query of tasks may begin, by what its filter asks for.

The one rule: what a client said is always a parameter. A lead gives the numbers of the tasks that one
member of a filter means, or two, in their order; the rest of the filter is held against each of them.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import product
from typing import Final, NamedTuple

from schemas import envelope, text
from schemas.filters import Filter
from schemas.ids import slug
from schemas.requests import Kind, Priority

FEW: Final = 200
"""So many tasks are looked at one by one, whatever else is asked of them."""
FEW_SORTED: Final = 10_000
"""So many numbers are sorted."""


class Where(NamedTuple):
    """A condition; ``{number}`` in it is a task's number where the query has it first."""

    text: str
    values: tuple[object, ...] = ()


class Lead(NamedTuple):
    """``ways``: conditions, one of which holds; ``members`` of the filter say the same.

    Not ``in_order``: all numbers have to be sorted. ``few`` are worth beginning with in any case.
    """

    source: str
    number: str
    ways: tuple[Where, ...]
    members: frozenset[str]
    in_order: bool = True
    few: int = FEW


_BY: Final = "tasks t INDEXED BY "
_NOT_INDEXED: Final = "tasks t NOT INDEXED"
EVERYTHING: Final = Lead(_NOT_INDEXED, "t.number", (Where("1"),), frozenset())
_ENDS: Final = frozenset({"finished_after", "finished_before"})
_HAS_WORDS: Final = "stands_in((SELECT words FROM text.prompts WHERE rowid = {number}), ?)"
# What was erased is not found from that moment on, whatever the index still has of it.
_REMEMBERED: Final = "NOT EXISTS (SELECT 1 FROM forgotten WHERE number = {number})"
_HAS_TAG: Final = "EXISTS (SELECT 1 FROM tags WHERE tag = ? AND number = {number})"
_COLUMNS: Final = (
    ("batch", "batch"),
    ("user", "user"),
    ("error", "error_code"),
    ("backend", "backend"),
    ("model", "model"),
    ("tenant", "tenant"),
)


def leads(chosen: Filter) -> list[Lead]:
    """Give the leads, those first that leave least over where all leave many.

    With words that is their index, which is asked only where nothing else leaves few.
    """
    by_status = [*_by_status(chosen)] if chosen.status else []
    certain = [lead for lead in by_status if len(lead.ways) == 1]
    found = [*_by_words(chosen), *_by_tag(chosen), *_by_value(chosen, "batch", "user", "error", "backend")]
    found += [*certain, *_by_model(chosen), *_by_value(chosen, "tenant")]
    return [
        *found,
        *(lead for lead in by_status if lead not in certain),
        *_by_end(chosen),
        *_by_kind(chosen),
    ]


def by_words(lead: Lead) -> bool:
    """Whether it is the index of words, of which it is not known how many a search leaves."""
    return "text" in lead.members


def wheres(chosen: Filter) -> list[tuple[str, Where]]:
    """Give the conditions of a filter, each with the member that asks for it, empty where no lead does."""
    conditions = (
        ("text", _HAS_WORDS, chosen.text),
        ("", _REMEMBERED, () if chosen.text else None),
        ("tag", _HAS_TAG, chosen.tag),
        *((member, f"t.{column} = ?", _value(chosen, member)) for member, column in _COLUMNS),
        ("status", f"t.status IN ({', '.join('?' * len(chosen.status))})", chosen.status or None),
        ("finished_after", "t.finished_at >= ?", chosen.finished_after),
        ("finished_before", "t.finished_at < ?", chosen.finished_before),
        ("kind", "t.kind = ?", chosen.kind),
        ("priority", "t.priority = ?", chosen.priority),
        ("", "t.submitted_at >= ?", chosen.submitted_after),
        ("", "t.submitted_at < ?", chosen.submitted_before),
    )
    return [(member, Where(said, values(value))) for member, said, value in conditions if value is not None]


def values(value: object) -> tuple[object, ...]:
    """Spell a value as its column does."""
    match value:
        case tuple():
            return value
        case datetime():
            return (envelope.timestamp(value),)
        case _:
            return (value,)


# A CROSS JOIN is done as written: the numbers first, in their order.
def _by_words(chosen: Filter) -> Iterator[Lead]:
    if chosen.text is not None:
        condition = Where("f.prompts MATCH ?", (text.matched(text.search(chosen.text)),))
        source = f"text.prompts f CROSS JOIN {_NOT_INDEXED} ON t.number = f.rowid"
        yield Lead(source, "f.rowid", (condition,), frozenset({"text"}))


def _by_tag(chosen: Filter) -> Iterator[Lead]:
    if chosen.tag is not None:
        source = f"tags g CROSS JOIN {_NOT_INDEXED} ON t.number = g.number"
        yield Lead(source, "g.number", (Where("g.tag = ?", (chosen.tag,)),), frozenset({"tag"}))


def _by_value(chosen: Filter, *members: str) -> Iterator[Lead]:
    for member, column in _COLUMNS:
        value = _value(chosen, member)
        if member in members and value is not None:
            condition = Where(f"t.{column} = ?", (value,))
            yield Lead(f"{_BY}tasks_by_{member}", "t.number", (condition,), frozenset({member}))


def _by_end(chosen: Filter) -> Iterator[Lead]:
    found = [where for member, where in wheres(chosen) if member in _ENDS]
    if found:
        both = tuple(value for where in found for value in where.values)
        condition = Where(" AND ".join(where.text for where in found), both)
        yield Lead(f"{_BY}tasks_by_end", "t.number", (condition,), _ENDS, in_order=False, few=FEW_SORTED)


def _by_model(chosen: Filter) -> Iterator[Lead]:
    if chosen.model is not None:
        yield _by_kind_and(chosen, "model", (slug(chosen.model),))


def _by_status(chosen: Filter) -> Iterator[Lead]:
    yield _by_kind_and(chosen, "status", chosen.status)


def _by_kind(chosen: Filter) -> Iterator[Lead]:
    if chosen.kind or chosen.priority:
        yield _by_kind_and(chosen, "priority", (chosen.priority,) if chosen.priority else tuple(Priority))


def _by_kind_and(chosen: Filter, column: str, some: Sequence[str]) -> Lead:
    """Begin with each kind that is meant, and each of some values in it."""
    kinds = (chosen.kind,) if chosen.kind else tuple(Kind)
    ways = tuple(Where(f"t.kind = ? AND t.{column} = ?", way) for way in product(kinds, some))
    return Lead(f"{_BY}tasks_by_kind_and_{column}", "t.number", ways, frozenset({"kind", column}))


def _value(chosen: Filter, member: str) -> str | None:
    """Give what is asked of a column; of a model that is its slug."""
    value: str | None = getattr(chosen, member)
    return slug(value) if member == "model" and value is not None else value
