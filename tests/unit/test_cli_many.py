"""Dead letters, filters, and the changes of a replay, on the command line."""

from datetime import UTC, datetime
from typing import Any

import click
import pytest

from schemas import filters
from services.cli import filtering, many, show
from services.cli.failures import EndError, Exit
from services.cli.submission import submit

Json = dict[str, Any]  # Any: as the api answers
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def task(**members: object) -> Json:
    made: Json = {
        "task_id": "0199d4e8-7c1a-7000-8000-0123456789ab",
        "kind": "image",
        "user": "ada",
        "tenant": "acme",
        "priority": "high",
        "tags": ["zoo", "night"],
        "request": {"prompt": "a red fox", "model": "Qwen/Qwen-Image"},
        "finished_at": "2026-11-24T11:59:00.000Z",
        "attempts": [],
    }
    return {**made, **members}


def test_the_filter_s_options_are_the_members_that_the_api_knows() -> None:
    assert filtering.MEMBERS == filters.MEMBERS


def test_every_common_member_of_a_submission_has_an_option() -> None:
    assert isinstance(submit, click.Group)
    for command in (one for name, one in submit.commands.items() if name != "batch"):
        assert {"deadline_s", "start_deadline_s", "backend"} <= {param.name for param in command.params}


def test_a_dead_letter_s_row_says_where_and_why() -> None:
    tried = [{"backend": "image-1"}, {"backend": "image-2"}]
    error = {"code": "backend_oom", "message": "out of\x1b[2J memory"}
    row = show.dead_row(task(attempts=tried, error=error), NOW)

    assert row[1:] == ("image", "1 min", "image-2", "2", "backend_oom", "out of [2J memory")


def test_a_dead_letter_that_no_gpu_ever_saw_has_a_row() -> None:
    assert show.dead_row(task(error=None))[3:] == ("", "0", "", "")


def test_changes_go_where_their_members_belong() -> None:
    changed = many.changes(
        ["steps=8", "user=null", 'tags=["a"]', "prompt=7 foxes", "sampler=a=b"], {"backend": "image-2"}
    )

    assert changed == {
        "backend": "image-2",
        "user": None,
        "tags": ["a"],
        "request": {"steps": 8, "prompt": "7 foxes", "sampler": "a=b"},
    }
    assert many.changes([]) == {}


def test_a_change_without_a_value_is_a_mistake_of_the_user() -> None:
    with pytest.raises(EndError) as caught:
        many.changes(["steps"])
    assert caught.value.exit_code is Exit.USAGE
