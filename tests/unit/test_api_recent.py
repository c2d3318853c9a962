"""What this process appended is remembered for a while, and not for ever."""

from schemas.ids import TaskId
from services.api.recent import Recent


def test_the_latest_sequence_is_remembered_until_it_is_old() -> None:
    now = 0.0
    recent = Recent(lambda: now, keep_s=30)
    recent.note(TaskId("a"), 1)
    recent.note(TaskId("a"), 5)
    assert recent.sequence(TaskId("a")) == 5
    assert recent.sequence(TaskId("b")) == 0
    now = 30.0
    assert recent.sequence(TaskId("a")) == 0


def test_only_so_many_are_remembered() -> None:
    recent = Recent(lambda: 0.0, most=3)
    for number in range(10):
        recent.note(TaskId(str(number)), number + 1)
    assert [recent.sequence(TaskId(str(n))) for n in range(10)].count(0) == 7
    assert recent.sequence(TaskId("9")) == 10
