"""The attempts of a task on the command line: how long each waited and ran, and what came of it."""

from datetime import timedelta
from typing import Any

import pytest

from services.cli import show, timings
from tests.builders import T0

Json = dict[str, Any]  # Any: as the api answers


def time(seconds: float) -> str:
    return (T0 + timedelta(seconds=seconds)).isoformat()


def attempt(number: int, start: float, end: float | None = None, error: str | None = None) -> Json:
    return {
        "attempt": number,
        "backend": f"image-{number}",
        "started_at": time(start),
        "finished_at": None if end is None else time(end),
        "error": {"code": error, "message": "no"} if error else None,
    }


def document(*attempts: Json, status: str = "DONE", not_before: float | None = None) -> Json:
    return {
        "status": status,
        "sequence": 17,
        "submitted_at": time(0),
        "not_before": None if not_before is None else time(not_before),
        "attempts": list(attempts),
    }


def test_each_attempt_waits_from_the_end_of_the_one_before() -> None:
    whole = document(attempt(1, 0.42, 13), attempt(2, 78, 3678, "backend_oom"), attempt(3, 3680, 3700))

    assert timings.rows(whole) == [
        ("1", "image-1", "0.42 s", "12 s", "handed back"),
        ("2", "image-2", "1 min 5 s", "1 h 0 min", "backend_oom"),
        ("3", "image-3", "2.00 s", "20 s", "done"),
    ]


def test_a_delayed_task_waits_from_its_time_on() -> None:
    assert timings.rows(document(attempt(1, 65, 70), not_before=60))[0][2:4] == ("5.00 s", "5.00 s")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("CANCELLED", "cancelled"), ("EXPIRED", "expired"), ("QUEUED", "handed back")],
)
def test_the_last_attempt_came_to_what_the_task_did(status: str, outcome: str) -> None:
    assert timings.rows(document(attempt(1, 1, 2), status=status))[0][-1] == outcome


def test_an_attempt_that_goes_on_is_measured_for_a_person_until_now() -> None:
    runs = document(attempt(1, 1), status="RUNNING")

    assert timings.rows(runs)[0][2:] == ("1.00 s", "", "running")
    assert timings.rows(runs, T0 + timedelta(seconds=31))[0][2:] == ("1.00 s", "30 s", "running")


def test_a_task_that_never_began_has_no_attempts() -> None:
    assert timings.rows({**document(status="CANCELLED"), "submitted_at": None}) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.00 s"),
        (9.99, "9.99 s"),
        (10, "10 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (7_380, "2 h 3 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_lengths_of_time_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert timings.lasting(seconds) == text


def test_how_a_task_was_is_one_line() -> None:
    assert show.stood(document(status="RUNNING")) == "as of then it is RUNNING, since sequence 17"


def test_a_queue_of_the_past_has_its_counts_alone() -> None:
    queue = {"kind": "image", "model": "a\x1b", "waiting": 3, "scheduled": 1, "retrying": 2, "running": 4}

    assert show.past_queue_row(queue) == ("image", "a ", "3", "1", "2", "4")
    assert len(show.PAST_QUEUES) == len(show.past_queue_row(queue))
