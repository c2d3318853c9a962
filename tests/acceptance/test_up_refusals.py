"""`taskfold up` where it cannot run: one clear line, exit code 1, nothing left running."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_up_life import Make, up

__all__ = ["up"]  # the fixture


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize("setting", ["api_port", "nats_port"])
def test_a_taken_port(up: Make, taken_port: int, setting: str) -> None:
    line = up(**{setting: taken_port}).start().refusal()
    assert f"port {taken_port} is taken" in line
    assert f"TASKFOLD_{setting.upper()}" in line


def test_a_second_instance_on_the_same_folder(up: Make, tmp_path: Path) -> None:
    first = up().start()
    first.line("nats-server")
    line = up().start().refusal()
    assert f"process {first.process.pid}" in line
    assert str(tmp_path / "data") in line


def test_a_data_folder_that_cannot_be_made(up: Make) -> None:
    assert "/proc/taskfold" in up(data_dir="/proc/taskfold").start().refusal()


def test_a_nats_server_that_does_not_start(up: Make, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "nats").write_text("in the way")
    line = up().start().refusal()
    assert "nats-server does not start: " in line
    assert "directory" in line


def test_a_nats_server_of_somebody_else_that_is_away(up: Make) -> None:
    line = up(nats_url="nats://me:secret@127.0.0.1:1").start().refusal()
    assert "no NATS server answers at nats://***@127.0.0.1:1" in line


def test_artifacts_that_would_fill_the_server(up: Make) -> None:
    assert "artifact_gib" in up(artifact_gib=9).start().refusal()


def test_a_wrong_setting(up: Make) -> None:
    assert "simulated_gpus" in up(simulated_gpus=-1).start().refusal()
