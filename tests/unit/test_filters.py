"""Which tasks are meant: what may be said, how a slip is told, and that each is found by an index."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from schemas import filters, readmodel, selections
from schemas.errors import Code, RejectedError
from schemas.filters import ANY_STATUS, DEAD, MEMBERS, UNFINISHED, Filter
from schemas.leads import FEW, FEW_SORTED
from schemas.requests import Kind, Priority
from schemas.selections import Place, Query
from schemas.task import Status

Row = tuple[object, ...]


def refusal(act: Callable[[], object]) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        act()
    return caught.value


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:")) as opened:
        opened.executescript(readmodel.TABLES + readmodel.INDEXES)
        opened.execute("ATTACH ':memory:' AS text")
        opened.execute("CREATE VIRTUAL TABLE text.prompts USING fts5 (words)")
        opened.create_function("stands_in", 2, lambda _words, _wanted: True)
        yield opened


def test_text_is_read_as_what_the_member_is() -> None:
    chosen = filters.parse(
        {
            "kind": "image",
            "status": "failed, EXPIRED,failed",
            "priority": "low",
            "user": "ada",
            "submitted_after": "2026-11-24T10:00:00+01:00",
            "limit": "7",
        }
    )

    assert chosen == Filter(
        kind=Kind.IMAGE,
        status=(Status.FAILED, Status.EXPIRED),
        priority=Priority.LOW,
        user="ada",
        submitted_after=datetime(2026, 11, 24, 9, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("member", "value", "code"),
    [
        ("kind", "video", Code.OUT_OF_RANGE),
        ("status", "GONE", Code.OUT_OF_RANGE),
        ("status", "", Code.OUT_OF_RANGE),
        ("status", "DONE,", Code.OUT_OF_RANGE),
        ("status", "ABSENT", Code.OUT_OF_RANGE),
        ("priority", "urgent", Code.OUT_OF_RANGE),
        ("tag", "", Code.OUT_OF_RANGE),
        ("user", "x" * 129, Code.OUT_OF_RANGE),
        ("finished_before", "2026-11-24T09:00:00", Code.OUT_OF_RANGE),
        ("submitted_after", "now", Code.OUT_OF_RANGE),
        ("text", "", Code.OUT_OF_RANGE),
        ("text", "?!", Code.OUT_OF_RANGE),
        ("text", "sn*", Code.OUT_OF_RANGE),
        ("text", "x" * 257, Code.OUT_OF_RANGE),
        ("tag", ["a"], Code.WRONG_TYPE),
        ("status", 7, Code.WRONG_TYPE),
    ],
)
def test_a_value_that_is_none_is_refused_by_its_member(member: str, value: object, code: Code) -> None:
    refused = refusal(lambda: filters.parse({member: value}))

    assert (refused.code, refused.member) == (code, member)


def test_only_what_may_be_acted_on_is_allowed() -> None:
    assert filters.parse_body({"status": "failed"}, DEAD, ()).status == (Status.FAILED,)
    refused = refusal(lambda: filters.parse_body({"status": "failed"}, UNFINISHED, ()))

    assert (refused.code, refused.extra["allowed"]) == (Code.OUT_OF_RANGE, list(UNFINISHED))


def test_an_action_on_everything_has_to_say_so() -> None:
    assert filters.parse_body({"all": True}, DEAD, ()) == Filter()
    bodies: list[dict[str, object]] = [{}, {"all": False}, {"tag": None}, {"reason": "x"}]
    for body in bodies:
        with pytest.raises(RejectedError, match="which tasks"):
            filters.parse_body(body, DEAD, ("reason",))
    assert refusal(lambda: filters.parse_body({"all": True, "tag": "a"}, DEAD, ())).code is (
        Code.CONFLICTING_MEMBERS
    )
    refused = refusal(lambda: filters.parse_body({"tags": "a"}, DEAD, ("reason",)))
    assert (refused.code, refused.member) == (Code.UNKNOWN_MEMBER, "tags")
    assert set(refused.extra["allowed"]) == {*MEMBERS, "all", "reason"}


def steps(database: sqlite3.Connection, query: Query) -> list[str]:
    return [step for *_, step in database.execute(f"EXPLAIN QUERY PLAN {query.text}", query.parameters)]


def beginning(database: sqlite3.Connection, query: Query) -> list[str]:
    """Give where a query begins, once for each way in which it does."""
    found = [step for step in steps(database, query) if any(f" {name} " in f"{step} " for name in "tgf")]
    return [
        step for step in found if "<" in step or "=" in step or "f VIRTUAL" in step or "finished" in step
    ]


@pytest.mark.parametrize(
    ("said", "index"),
    [
        ({"user": "ada"}, "tasks_by_user (user=? AND number<?)"),
        ({"user": "ada", "status": "FAILED", "kind": "image"}, "tasks_by_user (user=? AND number<?)"),
        ({"error": "oom", "status": "FAILED"}, "tasks_by_error (error_code=? AND number<?)"),
        ({"backend": "image-1"}, "tasks_by_backend (backend=? AND number<?)"),
        ({"status": "FAILED"}, "tasks_by_kind_and_status (kind=? AND status=? AND number<?)"),
        ({"status": "FAILED,EXPIRED"}, "tasks_by_kind_and_status (kind=? AND status=? AND number<?)"),
        (
            {"status": "QUEUED", "kind": "image", "model": "sdxl"},
            "tasks_by_kind_and_status (kind=? AND status=? AND number<?)",
        ),
        ({"model": "Qwen/Qwen-Image"}, "tasks_by_kind_and_model (kind=? AND model=? AND number<?)"),
        ({"model": "sdxl", "status": "DONE"}, "tasks_by_kind_and_model (kind=? AND model=? AND number<?)"),
        ({"finished_after": "2026-11-24T09:00:00Z"}, "INTEGER PRIMARY KEY (rowid<?)"),
        ({"finished_before": "2026-11-24T09:00:00Z"}, "INTEGER PRIMARY KEY (rowid<?)"),
        ({"tenant": "acme"}, "tasks_by_tenant (tenant=? AND number<?)"),
        ({"kind": "image"}, "tasks_by_kind_and_priority (kind=? AND priority=? AND number<?)"),
        ({"priority": "low"}, "tasks_by_kind_and_priority (kind=? AND priority=? AND number<?)"),
        ({"tag": "zoo", "user": "ada"}, "SEARCH g USING PRIMARY KEY (tag=? AND number<?)"),
        ({"text": "fox", "user": "ada"}, "SCAN f VIRTUAL TABLE"),
        ({"submitted_after": "2026-11-24T09:00:00Z"}, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ({"submitted_before": "2026-11-24T09:00:00Z"}, "INTEGER PRIMARY KEY (rowid<?)"),
        ({}, "INTEGER PRIMARY KEY (rowid<?)"),
    ],
)
def test_a_list_of_many_is_read_in_order_by_an_index(
    database: sqlite3.Connection, said: dict[str, str], index: str
) -> None:
    query = selections.one_side(filters.parse(said), Place(), 50)

    assert index in beginning(database, query)[0], steps(database, query)
    assert not any(step.startswith("SCAN t") for step in steps(database, query))


@pytest.mark.parametrize(
    ("said", "measured", "index"),
    [
        ({"user": "ada", "status": "FAILED", "kind": "image"}, (FEW, 7, FEW), "tasks_by_kind_and_status"),
        ({"tag": "zoo", "user": "ada"}, (FEW, 7), "tasks_by_user"),
        ({"tag": "zoo", "user": "ada"}, (3, 7), "SEARCH g"),
        ({"text": "fox", "user": "ada"}, (7,), "tasks_by_user"),
        ({"text": "fox", "user": "ada"}, (FEW,), "SCAN f VIRTUAL TABLE"),
        ({"finished_after": "2026-11-24T09:00:00Z"}, (FEW_SORTED - 1,), "tasks_by_end"),
        ({"finished_after": "2026-11-24T09:00:00Z"}, (FEW_SORTED,), "INTEGER PRIMARY KEY"),
    ],
)
def test_a_list_begins_with_what_leaves_few(
    database: sqlite3.Connection, said: dict[str, str], measured: tuple[int, ...], index: str
) -> None:
    chosen = filters.parse(said)
    asked = selections.measure(chosen)

    assert asked is not None
    assert database.execute(*asked).fetchone() == (0,) * len(measured)
    query = selections.one_side(chosen, Place(), 50, measured)
    assert index in beginning(database, query)[0], steps(database, query)


def test_nothing_is_measured_where_there_is_no_choice() -> None:
    for said in ({}, {"user": "ada"}, {"status": "FAILED,EXPIRED"}, {"text": "fox"}):
        assert selections.measure(filters.parse(said)) is None


def test_only_the_few_that_were_found_are_sorted(database: sqlite3.Connection) -> None:
    for name in ("user", "error", "backend", "tenant", "tag", "text"):
        query = selections.select_tasks(filters.parse({name: "failed"}), 50)
        assert sum("TEMP B-TREE" in step for step in steps(database, query)) == 1, name
    several = selections.one_side(filters.parse({"status": "FAILED,EXPIRED,CANCELLED"}), Place(), 50)
    branches = [step for step in steps(database, several) if "INDEX" in step]
    assert (len(branches), several.text.count("LIMIT")) == (6, 7)


def test_successors_are_looked_for_by_their_origin(database: sqlite3.Connection) -> None:
    query = selections.select_tasks(Filter(status=(Status.FAILED,)), 10, without_successor=True)
    rows = database.execute(f"EXPLAIN QUERY PLAN {query.text}", query.parameters)

    assert any("tasks_by_origin (origin=?)" in step for *_, step in rows)


def test_times_of_submission_are_held_to_the_millisecond(database: sqlite3.Connection) -> None:
    marks = ", ".join("?" * 21)
    for number in range(1, 6):
        at = f"2026-11-24T09:00:00.{number:03}Z"
        row: Row = (number, f"id-{number}", "image", "QUEUED", "default", "a", "f", None, number, "any", at)
        row += ("normal", None, 1.0, None, None, None, None, None, b"", b"")
        database.execute(f"INSERT INTO tasks VALUES ({marks})", row)

    def found(**said: str) -> list[str]:
        query = selections.select_tasks(filters.parse(said), 10)
        return [task_id for (task_id,) in database.execute(query.text, query.parameters)]

    assert found(submitted_after="2026-11-24T09:00:00.003Z") == ["id-3", "id-4", "id-5"]
    assert found(submitted_before="2026-11-24T09:00:00.003Z") == ["id-1", "id-2"]
    assert found(
        submitted_after="2026-11-24T09:00:00.002Z", submitted_before="2026-11-24T09:00:00.004Z"
    ) == [
        "id-2",
        "id-3",
    ]
    assert (
        found(submitted_after="2027-01-01T00:00:00Z")
        == found(submitted_before="2026-01-01T00:00:00Z")
        == []
    )


def test_every_status_is_either_over_or_not() -> None:
    assert set(UNFINISHED) | set(DEAD) | {Status.DONE} == set(ANY_STATUS)
