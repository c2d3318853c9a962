"""Which tasks are meant: what may be said, how a slip is told, and that each is found by an index."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from schemas import filters, readmodel, selections
from schemas.errors import Code, RejectedError
from schemas.filters import ANY_STATUS, DEAD, MEMBERS, UNFINISHED, Filter
from schemas.requests import Kind, Priority
from schemas.selections import Query
from schemas.task import Status

NEWEST = 2**63 - 1
Row = tuple[object, ...]


def refusal(act: Callable[[], object]) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        act()
    return caught.value


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:")) as opened:
        opened.executescript(readmodel.TABLES + readmodel.INDEXES)
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


def plan(database: sqlite3.Connection, query: Query) -> list[str]:
    rows = database.execute(f"EXPLAIN QUERY PLAN {query.text}", query.parameters)
    return [step for *_, step in rows if " t " in step or " g " in step]


@pytest.mark.parametrize(
    ("said", "index"),
    [
        ({"user": "ada"}, "tasks_by_user (user=? AND number<?)"),
        ({"user": "ada", "status": "FAILED", "kind": "image"}, "tasks_by_user (user=? AND number<?)"),
        ({"error": "oom", "status": "FAILED"}, "tasks_by_error (error_code=? AND number<?)"),
        ({"backend": "image-1"}, "tasks_by_backend (backend=? AND number<?)"),
        ({"status": "FAILED"}, "tasks_by_status (status=? AND number<?)"),
        ({"status": "FAILED,EXPIRED"}, "tasks_by_status (status=? AND number<?)"),
        (
            {"status": "QUEUED", "kind": "image"},
            "tasks_by_kind_and_status (kind=? AND status=? AND number<?)",
        ),
        ({"model": "Qwen/Qwen-Image"}, "tasks_by_model (model=? AND number<?)"),
        ({"finished_after": "2026-11-24T09:00:00Z"}, "tasks_by_end (finished_at>?)"),
        ({"finished_before": "2026-11-24T09:00:00Z"}, "tasks_by_end (finished_at<?)"),
        ({"tenant": "acme"}, "tasks_by_tenant (tenant=? AND number<?)"),
        ({"kind": "image"}, "tasks_by_kind (kind=? AND number<?)"),
        ({"tag": "zoo", "user": "ada"}, "SEARCH g USING PRIMARY KEY (tag=? AND number<?)"),
        ({"submitted_after": "2026-11-24T09:00:00Z"}, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ({"submitted_before": "2026-11-24T09:00:00Z"}, "INTEGER PRIMARY KEY (rowid<?)"),
        ({"priority": "low"}, "INTEGER PRIMARY KEY (rowid<?)"),
        ({}, "INTEGER PRIMARY KEY (rowid<?)"),
    ],
)
def test_a_list_is_read_by_the_index_that_leaves_least_over(
    database: sqlite3.Connection, said: dict[str, str], index: str
) -> None:
    steps = plan(database, selections.list_tasks(filters.parse(said), NEWEST, 50))

    assert index in steps[0], steps
    assert not any(step.startswith("SCAN t") for step in steps)


def test_only_the_few_that_were_found_are_sorted_where_one_value_is_looked_for(
    database: sqlite3.Connection,
) -> None:
    for name in ("user", "error", "backend", "status", "model", "tenant", "tag"):
        query = selections.select_tasks(filters.parse({name: "failed"}), 50)
        rows = database.execute(f"EXPLAIN QUERY PLAN {query.text}", query.parameters)
        assert sum("TEMP B-TREE" in step for *_, step in rows) == 1, name


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
