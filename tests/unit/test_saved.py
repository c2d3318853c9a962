"""What is taken for a backup, and what is refused before a server is asked for anything."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import subjects
from services.bus.snapshots import CHUNK_BYTES, Description
from services.cli import saved
from services.cli.failures import EndError, Exit

STATE = {"messages": 1, "bytes": 9, "last_seq": 1, "first_ts": "2026-11-24T00:00:00Z"}
CONTENT = b"archive" * CHUNK_BYTES  # of more than one chunk


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Give a whole backup."""
    folder = tmp_path / "backup"
    with saved.written(folder) as part:
        for name in subjects.SAVED:
            with saved.Writing(part / name) as writing:
                writing.add(CONTENT[:10])
                writing.add(CONTENT[10:])
                writing.end(Description({"name": name}, STATE))
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(EndError) as ended:
        saved.read(folder)
    assert ended.value.exit_code is Exit.USAGE
    return str(ended.value)


def test_what_was_written_is_read_back(backup: Path, tmp_path: Path) -> None:
    assert [description.name for description in saved.read(backup)] == list(subjects.SAVED)
    assert b"".join(saved.chunks(backup / "TASKS")) == CONTENT
    assert list(tmp_path.iterdir()) == [backup]
    assert {path.stat().st_mode & 0o077 for path in (backup, *backup.iterdir())} == {0}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("backup", "is there already; name a folder that is empty or new"),
        ("backup/TASKS/backup.json", "is there already"),
        ("no/backup", r"cannot write \S+: No such file or directory"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_begun(backup: Path, place: str, said: str) -> None:
    with pytest.raises(EndError, match=said), saved.written(backup.parent / place):
        pytest.fail("it was begun")


def test_what_is_no_folder_is_no_backup(backup: Path) -> None:
    assert "there is no folder" in refused(backup / "none")
    assert "there is no folder" in refused(backup / "TASKS" / "backup.json")


def test_what_broke_off_leaves_nothing(tmp_path: Path) -> None:
    def break_off() -> None:
        with saved.written(tmp_path / "backup") as part, saved.Writing(part / "TASKS") as writing:
            writing.add(CONTENT)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_lacks_every_stream(tmp_path: Path) -> None:
    assert refused(tmp_path).endswith(f"is no whole backup: it lacks {', '.join(subjects.SAVED)}")


def cut_short(tasks: Path) -> None:
    os.truncate(tasks / "stream.arc.s2", 5)


def edited(tasks: Path) -> None:
    (tasks / "backup.json").write_text("{}")


def without_an_archive(tasks: Path) -> None:
    (tasks / "stream.arc.s2").unlink()


def without_a_description(tasks: Path) -> None:
    (tasks / "backup.json").unlink()


def with_sums_of_nothing(tasks: Path) -> None:
    (tasks / "SHA256SUMS").write_bytes(b"\xff")


def described(tasks: Path, **members: Any) -> None:  # Any: JSON
    (tasks / "SHA256SUMS").unlink()
    (tasks / "backup.json").write_bytes(msgspec.json.encode(members))


def of_another_stream(tasks: Path) -> None:
    described(tasks, config={"name": "KV_FLEET"}, state=STATE)


def of_no_state(tasks: Path) -> None:
    described(tasks, config={"name": "TASKS"}, state={})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut_short, "was changed since: it has another checksum"),
        (edited, "was changed since: it has another checksum"),
        (without_an_archive, "cannot read "),
        (without_a_description, "is no whole backup: it lacks TASKS"),
        (with_sums_of_nothing, "cannot read "),
        (of_another_stream, "is a backup of KV_FLEET"),
        (of_no_state, "describes no stream"),
        (described, "describes no stream"),
    ],
)
def test_a_spoilt_backup_says_what_is_wrong(backup: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(backup / "TASKS")

    assert said in refused(backup)


def test_one_without_checksums_is_read_as_the_stock_command_makes_none(backup: Path) -> None:
    for name in subjects.SAVED:
        (backup / name / "SHA256SUMS").unlink()
    (backup / "TASKS" / "stream.arc.s2").rename(backup / "TASKS" / "stream.tar.s2")  # by an older one

    assert len(saved.read(backup)) == len(subjects.SAVED)
    assert b"".join(saved.chunks(backup / "TASKS")) == CONTENT


def test_streams_of_others_are_named(backup: Path) -> None:
    for name in ("FOREIGN", "ALIEN", "notes"):
        (backup / name).mkdir()
    for name in ("FOREIGN", "ALIEN"):
        (backup / name / "backup.json").touch()

    assert saved.left_out(backup) == ["ALIEN", "FOREIGN"]
