"""What a process tells its supervisor, heard at a socket of the test's own."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services import clock, process, supervision


@pytest.fixture(params=["in a folder", "abstract"])
def supervisor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    address = str(tmp_path / "notify") if request.param == "in a folder" else f"@{clock.new_name()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1))
        listening.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield listening


def test_readiness_goes_out_in_one_datagram(supervisor: socket.socket) -> None:
    supervision.ready("listens on http://127.0.0.1:8080")

    assert supervisor.recv(4096) == b"READY=1\nSTATUS=listens on http://127.0.0.1:8080"


def test_the_end_is_announced_too(supervisor: socket.socket) -> None:
    supervision.stopping()

    assert supervisor.recv(4096).startswith(b"STOPPING=1\n")


def test_without_a_supervisor_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    supervision.ready("works")


def test_a_supervisor_that_is_gone_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))

    supervision.ready("works")


def test_a_supervisor_that_does_not_read_holds_nobody_up_for_ever(
    supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_PATIENCE_S", 0.01)
    queued = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())

    for _ in range(queued + 5):
        supervision.notify("WATCHDOG=1")

    assert supervisor.recv(4096) == b"WATCHDOG=1"


async def test_the_watchdog_hears_of_the_loop_again_and_again(
    supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

    async with process.background(supervision.keep_alive()):
        heard = [await asyncio.to_thread(supervisor.recv, 4096) for _ in range(3)]

    assert heard == [b"WATCHDOG=1"] * 3


async def test_nobody_is_told_who_does_not_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)

    await supervision.keep_alive()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, None),
    ],
)
def test_only_the_process_that_is_watched_has_a_limit(
    environment: dict[str, str], expected: float | None
) -> None:
    assert supervision.watchdog_s(environment, pid=7) == expected
