"""Files of tasks, as the command line takes them apart."""

import msgspec
import pytest

from services.cli import show
from services.cli.batches import tasks
from services.cli.failures import EndError, Exit

ONE, TWO = b'{"kind": "image", "request": {"prompt": "a\\nb"}}', b'{"kind": "speech"}'


@pytest.mark.parametrize(
    "content",
    [b"%b\n%b\n" % (ONE, TWO), b"\n%b\r\n\n%b" % (ONE, TWO), b" [%b,\n %b]\n" % (ONE, TWO)],
    ids=["lines", "empty lines between", "an array"],
)
def test_tasks_are_a_line_each_or_an_array(content: bytes) -> None:
    assert msgspec.json.encode({"tasks": tasks(content)}) == b'{"tasks":[%b,%b]}' % (ONE, TWO)


@pytest.mark.parametrize(
    ("content", "said"), [(b"%b\nnope" % ONE, "line 2 is no JSON"), (b"[1, 2", "no JSON array")]
)
def test_what_is_no_json_is_told_before_anything_is_sent(content: bytes, said: str) -> None:
    with pytest.raises(EndError, match=said) as error:
        tasks(content)
    assert error.value.exit_code == Exit.USAGE


def test_a_batch_is_shown_by_what_its_tasks_are() -> None:
    document = {
        "batch_id": "b",
        "size": 5,
        "counts": {"QUEUED": 3, "RUNNING": 0, "DONE": 2},
        "user": None,
        "submitted_at": "2026-11-24T09:00:00.000Z",
        "finished_at": None,
    }

    assert show.batch(document) == [
        "batch       b",
        "tasks       5: 3 QUEUED, 2 DONE",
        "submitted   2026-11-24T09:00:00.000Z",
    ]
