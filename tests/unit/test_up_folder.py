"""The data folder of `up`: one owner, writable, with room; every refusal is one line that names it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.process import StartError
from services.up.folder import claim

GIB = 2**30


def plenty(_: Path) -> int:
    return GIB


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def refusal(folder: Path, free: int = GIB) -> str:
    with pytest.raises(StartError) as error, claim(folder, lambda _: free):
        pass
    assert str(folder) in str(error.value)
    assert "TASKFOLD_DATA_DIR" in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_claim_makes_the_folder_and_a_place_for_logs(tmp_path: Path) -> None:
    with claim(tmp_path / "a" / "b", plenty):
        assert (tmp_path / "a" / "b" / "logs").is_dir()


def test_a_claimed_folder_is_refused_and_its_owner_named(tmp_path: Path) -> None:
    with claim(tmp_path, plenty):
        assert f"process {os.getpid()}" in refusal(tmp_path)


def test_a_released_folder_can_be_claimed_again(tmp_path: Path) -> None:
    for _ in range(2):
        with claim(tmp_path, plenty):
            pass


def test_a_child_that_inherits_the_lock_keeps_the_folder_claimed(tmp_path: Path) -> None:
    with claim(tmp_path, plenty) as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    try:
        refusal(tmp_path)
    finally:
        child.kill()
        child.wait()
    with claim(tmp_path, plenty):
        pass


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    refusal(Path("/proc/taskfold"))


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    refusal(tmp_path / "data")


def test_a_folder_without_room_is_refused(tmp_path: Path) -> None:
    assert "255 MiB free" in refusal(tmp_path, 256 * 2**20 - 1)


def test_a_full_disk_is_refused_even_when_it_reports_room(tiny_disk: Path) -> None:
    assert "No space left" in refusal(tiny_disk)


def test_a_read_only_disk_is_refused(tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    assert "Read-only" in refusal(tiny_disk)


def test_the_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    with claim(tmp_path, plenty):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "taskfold.lock"]
