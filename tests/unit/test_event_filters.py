"""Which events are meant: by what stood right after them, read from columns first and a document last."""

import pytest

from schemas import event_filters
from schemas.errors import Code, RejectedError
from schemas.event_filters import EventFilter, Happened, Said, holds
from schemas.filters import UNFINISHED, Filter
from schemas.ids import BatchId
from schemas.task import Status
from tests.builders import OTHER, TASK

DONE = Happened(
    sequence=7,
    task_id=TASK,
    type="task.done",
    wire=b"{}",
    status="DONE",
    backend="image-1",
    error_code=None,
    number=3,
    kind="image",
    model="qwen-image",
    priority="normal",
    tenant="default",
    user="ada",
    batch=BatchId(OTHER),
    submitted_at="2026-11-24T09:00:00.000Z",
    finished_at="2026-11-24T09:05:00.000Z",
)
STARTED = DONE._replace(sequence=5, type="task.started", status="RUNNING")
FAILED = DONE._replace(type="task.failed", status="FAILED", error_code="boom")
SUBMITTED = DONE._replace(sequence=3, type="task.submitted", status="QUEUED", backend=None)
PROGRESS = STARTED._replace(sequence=900, type="task.progress", finished_at=None)


def zoo() -> Said:
    return Said(tags=("zoo", "owls"))


def unread() -> Said:
    raise AssertionError("the document was read for nothing")


@pytest.mark.parametrize(
    ("query", "meant", "other"),
    [
        ({"kind": "image"}, DONE, DONE._replace(kind="speech")),
        ({"status": "DONE,FAILED"}, FAILED, STARTED),
        ({"user": "ada"}, DONE, DONE._replace(user=None)),
        ({"tenant": "default"}, DONE, DONE._replace(tenant="other")),
        ({"backend": "image-1"}, STARTED, SUBMITTED),
        ({"model": "Qwen/Image"}, DONE._replace(model="qwen-image"), DONE._replace(model="any")),
        ({"error": "boom"}, FAILED, DONE),
        ({"priority": "normal"}, DONE, DONE._replace(priority="high")),
        ({"batch": OTHER}, DONE, DONE._replace(batch=None)),
        ({"submitted_after": "2026-11-24T09:00:00Z"}, DONE, DONE._replace(submitted_at=None)),
        ({"submitted_before": "2026-11-24T09:00:01Z"}, DONE, DONE._replace(submitted_at="2026-11-25")),
        ({"type": "done"}, DONE, FAILED),
        ({"type": "task.started, progress"}, PROGRESS, DONE),
    ],
)
def test_a_member_is_held_against_the_event(
    query: dict[str, str], meant: Happened, other: Happened
) -> None:
    chosen = event_filters.parse(query)
    assert holds(chosen, meant, unread)
    assert not holds(chosen, other, unread)


@pytest.mark.parametrize(
    "query", [{"finished_after": "2026-11-24T09:00:00Z"}, {"finished_before": "2030-01-01T00:00:00Z"}]
)
def test_only_the_event_that_ended_a_task_has_a_time_of_its_end(query: dict[str, str]) -> None:
    chosen = event_filters.parse(query)
    assert holds(chosen, DONE, unread)
    assert holds(chosen, DONE._replace(type="task.erased"), unread)
    assert not holds(chosen, STARTED, unread)
    assert not holds(chosen, PROGRESS, unread)


def test_a_tag_stands_in_the_document_which_is_read_last() -> None:
    chosen = event_filters.parse({"tag": "zoo", "user": "ada"})
    assert holds(chosen, DONE, zoo)
    assert not holds(chosen, DONE, Said)
    assert not holds(chosen, DONE._replace(user="bob"), unread)


@pytest.mark.parametrize(("wanted", "held"), [("red fox", True), ('"fox red"', False), ("fox owl", False)])
def test_words_are_looked_for_in_the_prompt_of_the_document(wanted: str, held: bool) -> None:  # noqa: FBT001 - a parameter
    document = event_filters.said(b'{"tags":[],"request":{"prompt":"a red Fox","steps":8}}')
    chosen = event_filters.parse({"text": wanted})
    assert holds(chosen, DONE, lambda: document) is held
    assert not holds(chosen, DONE, Said)


def test_nothing_asked_means_everything() -> None:
    assert all(holds(EventFilter(), event, unread) for event in (DONE, STARTED, SUBMITTED, PROGRESS))
    assert event_filters.parse({}) == EventFilter()


def test_what_is_said_is_taken_from_a_document() -> None:
    assert event_filters.said(b'{"task_id":"x","tags":["a","b"],"request":null}') == Said(("a", "b"))


@pytest.mark.parametrize("value", ["", "gone", "task.task.done", "done,", "*"])
def test_an_unknown_type_is_refused_by_name(value: str) -> None:
    with pytest.raises(RejectedError) as caught:
        event_filters.parse({"type": value})
    assert (caught.value.code, caught.value.member) == (Code.OUT_OF_RANGE, "type")
    assert "progress" in caught.value.extra["allowed"]


def test_a_filter_of_events_means_the_unfinished_tasks_that_it_names() -> None:
    assert event_filters.unfinished(event_filters.parse({"user": "ada", "type": "done"})) == Filter(
        user="ada", status=UNFINISHED
    )
    assert event_filters.unfinished(event_filters.parse({"status": "DONE,QUEUED"})) == Filter(
        status=(Status.QUEUED,)
    )
    assert event_filters.unfinished(event_filters.parse({"status": "DONE"})) is None
