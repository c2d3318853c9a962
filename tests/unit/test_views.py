"""What goes out over HTTP."""

import json
from typing import Any

import pytest
from hypothesis import given
from msgspec.structs import replace

from schemas import events, problems, views
from schemas.errors import Code, RejectedError
from schemas.events import Progress, Recorded, TaskEvent, Undecodable
from schemas.ids import TaskId
from schemas.problems import HTTP_STATUS
from schemas.standing import Why, standing
from schemas.task import Status, fold
from tests import strategies
from tests.builders import (
    ADDRESS,
    TASK,
    artifact,
    at,
    attempt_failed,
    cancelled,
    done,
    expired,
    failed,
    record,
    scheduled,
    started,
    submitted,
    task,
    tried,
)

URL = f"/api/v1/tasks/{TASK}"


def shown(*happened: TaskEvent | Undecodable) -> dict[str, Any]:  # Any: JSON
    stored: dict[str, Any] = json.loads(views.encoded(task(*happened), ADDRESS))
    return stored


def test_a_queued_task_is_shown_with_every_member() -> None:
    assert shown(submitted(user="ada", tags=("a",), metadata={"x": 1})) == {
        "task_id": TASK,
        "kind": "image",
        "status": "QUEUED",
        "priority": "normal",
        "tenant": "default",
        "user": "ada",
        "tags": ["a"],
        "metadata": {"x": 1},
        "submitted_at": "2026-11-24T09:00:01.000Z",
        "not_before": None,
        "started_at": None,
        "finished_at": None,
        "request": {
            "prompt": "a red fox",
            "negative_prompt": "",
            "model": None,
            "width": 1024,
            "height": 1024,
            "steps": 20,
            "seed": 7,
            "guidance": None,
            "sampler": None,
            "n": 1,
        },
        "attempts": [],
        "result_url": None,
        "artifacts": [],
        "text": None,
        "error": None,
        "backend": None,
        "origin": None,
        "batch": None,
        "erased_at": None,
        "links": {"self": URL, "events": f"{URL}/events", "cancel": f"{URL}/cancel"},
        "sequence": 1,
    }


def test_a_finished_task_is_shown_with_its_result() -> None:
    document = shown(submitted(), started(), done(text="hello"))

    assert document["status"] == "DONE"
    assert document["started_at"] == "2026-11-24T09:00:02.000Z"
    assert document["finished_at"] == "2026-11-24T09:00:03.000Z"
    assert document["attempts"] == [
        {
            "attempt": 1,
            "backend": "image-1",
            "started_at": "2026-11-24T09:00:02.000Z",
            "finished_at": "2026-11-24T09:00:03.000Z",
            "error": None,
        }
    ]
    assert document["result_url"] == f"/api/images/{TASK}-1-0"
    assert document["artifacts"][0]["url"] == document["result_url"]
    assert document["text"] == "hello"


def test_what_is_no_picture_has_a_url_of_its_own_kind() -> None:
    transcript = artifact(media_type="application/json", width=None, height=None, seed=None)

    assert views.artifact_url(transcript) == f"/api/artifacts/{TASK}-1-0"


def test_a_retrying_task_shows_what_went_wrong_so_far_and_no_error_of_its_own() -> None:
    document = shown(submitted(), started(), attempt_failed())

    assert document["attempts"][0]["error"] == {
        "code": "backend_error",
        "message": "it was transient",
        "class": "transient",
    }
    assert document["error"] is None


@pytest.mark.parametrize(
    ("happened", "code", "attempts"),
    [
        ([submitted(), started(), failed((tried(1),))], "backend_error", 1),
        ([submitted(), expired()], "total_deadline_passed", 0),
    ],
)
def test_a_task_that_failed_says_why_and_after_how_many_attempts(
    happened: list[TaskEvent], code: str, attempts: int
) -> None:
    found = shown(*happened)["error"]

    assert (found["code"], found["attempts"]) == (code, attempts)


def test_a_delayed_task_shows_when_it_may_start() -> None:
    assert shown(scheduled())["not_before"] == "2026-11-24T09:01:00.000Z"


def test_a_task_whose_ticket_nobody_could_read_is_shown_by_its_address() -> None:
    document = shown(Undecodable("?"), failed())

    assert (document["kind"], document["status"], document["request"]) == ("image", "FAILED", None)
    assert document["tenant"] == "default"


def test_progress_and_queue_stand_in_front_of_what_is_stored() -> None:
    stored = views.encoded(task(submitted(), started()), ADDRESS)
    seen = views.progress(TASK, Progress(attempt=1, fraction=0.35, step=7, steps=20))

    assert json.loads(views.spliced(stored, None)) == {
        "progress": None,
        "queue": None,
        **json.loads(stored),
    }
    assert json.loads(views.spliced(stored, seen))["progress"] == {
        "attempt": 1,
        "fraction": 0.35,
        "step": 7,
        "steps": 20,
        "estimated": False,
        "preview_url": None,
    }


def test_another_preview_has_another_url_and_no_preview_has_none() -> None:
    urls = [
        json.loads(views.progress(TASK, Progress(attempt=1, fraction=0.5, preview=name)))["preview_url"]
        for name in ("a1", "b2", None)
    ]
    preview = f"/api/v1/tasks/{TASK}/preview"
    assert urls == [f"{preview}?v=a1", f"{preview}?v=b2", None]


def test_a_standing_says_the_place_the_end_in_whole_seconds_and_why() -> None:
    stored = views.encoded(task(submitted()), ADDRESS)
    stands = standing(3, at(60), Why.WAITING_FOR_SLOT)

    assert json.loads(views.spliced(stored, None, stands))["queue"] == {
        "position": 3,
        "eta_at": "2026-11-24T09:01:00.000Z",
        "why": "waiting_for_slot",
    }


def test_an_event_on_the_wire_says_where_what_and_when() -> None:
    assert json.loads(views.wire_event(record(started(), 1230, after=1.5))) == {
        "sequence": 1230,
        "type": "task.started",
        "time": "2026-11-24T09:00:01.500Z",
        "task_id": TASK,
        "data": {"attempt": 1, "backend": "image-1", "dispatcher": "dispatcher-a"},
    }


@pytest.mark.parametrize("event", [submitted(tags=("Füchse",)), submitted(), started(), done()])
def test_a_body_as_it_was_stored_gives_the_same_on_the_wire(event: TaskEvent) -> None:
    told = record(event)

    assert views.wire_event(replace(told, body=events.encode(event))) == views.wire_event(told)


def test_an_event_on_the_wire_has_what_a_later_version_added() -> None:
    body = b'{"attempt":1,"backend":"image-1","dispatcher":"a","mood":"calm"}'

    assert json.loads(views.wire_event(replace(record(started()), body=body)))["data"]["mood"] == "calm"


@pytest.mark.parametrize("strange", [b"\n", b"\r", b'"x":"\xff",'])
def test_an_event_on_the_wire_is_one_line_of_proper_text_whatever_was_stored(strange: bytes) -> None:
    body = b'{%b"attempt":1,"backend":"image-1","dispatcher":"dispatcher-a"}' % strange
    told = record(started())

    assert views.wire_event(replace(told, body=body)) == views.wire_event(told)


def test_an_event_of_a_strange_task_id_is_still_json_on_the_wire() -> None:
    strange = TaskId('a"b')

    assert json.loads(views.wire_event(record(started(), task_id=strange)))["task_id"] == strange


def test_an_event_that_could_not_be_read_has_no_form_on_the_wire() -> None:
    with pytest.raises(TypeError):
        views.wire_event(record(Undecodable("?")))


def test_progress_on_the_wire_has_no_sequence() -> None:
    assert json.loads(views.wire_progress(TASK, b'{"fraction":0.5}')) == {
        "type": "task.progress",
        "task_id": TASK,
        "data": {"fraction": 0.5},
    }


def test_who_submits_is_told_where_to_look() -> None:
    told = views.accepted(TASK, Status.QUEUED)

    assert (told.task_id, told.status) == (TASK, "QUEUED")
    assert (told.status_url, told.events_url) == (URL, f"{URL}/events")
    assert (told.result_url, told.cancel_url) == (f"{URL}/result", f"{URL}/cancel")


@pytest.mark.parametrize("code", Code)
def test_every_refusal_has_a_status_that_says_error(code: Code) -> None:
    found = problems.problem(RejectedError(code, "no"))

    assert found.status == HTTP_STATUS[code]
    assert 400 <= found.status < 600
    assert found.type == f"urn:taskfold:problem:{code}"


def test_a_problem_names_the_member_what_is_allowed_and_the_task() -> None:
    refusal = RejectedError(Code.OUT_OF_RANGE, "no", member="width", allowed=["8"], task_id=TASK)
    found = problems.problem(refusal)

    assert (found.member, found.allowed, found.task_id) == ("width", ["8"], TASK)
    assert found.title == "Out of range"


@given(strategies.histories())
def test_every_history_renders_the_same_from_a_lookup_as_from_all_of_it(whole: list[Recorded]) -> None:
    full = fold(TASK, whole)
    document = views.encoded(full, ADDRESS)

    assert views.encoded(fold(TASK, strategies.last_of_each(whole)), ADDRESS) == document
    assert json.loads(document)["status"] == full.status


def test_every_moment_is_shown_in_utc() -> None:
    document = shown(submitted(not_before=at(0)), started(), cancelled())

    moments = [document[name] for name in ("submitted_at", "not_before", "started_at", "finished_at")]
    assert all(moment.endswith("Z") for moment in moments)
