"""`taskfold up` as a person runs it: it starts, survives its children, stops, and leaves nothing behind.

`Instance` runs one for any acceptance test: in a folder of its own, on free ports.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self, TypeVar

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

T = TypeVar("T")
STOPS_S = 60
Make = Callable[..., "Instance"]
PROCESSES = ("nats-server", "api", "projector", "dispatcher")
SIMULATORS = ("gpusim sdcpp", "gpusim sdcpp", "gpusim openai", "gpusim whisper")


class Instance:
    """One `taskfold up`. Its standard output is read line by line; its settings are keyword arguments."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.url = ""
        """Where the api is, once it is ready."""
        chosen = {"data_dir": folder / "data", "api_port": 0, "nats_port": 0, **settings}
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TASKFOLD_")},
            **{
                name if name.isupper() else f"TASKFOLD_{name.upper()}": str(v) for name, v in chosen.items()
            },
        }
        self._process: subprocess.Popen[str] | None = None
        self._family: list[psutil.Process] = []

    def start(self) -> Self:
        """Start it; returns at once."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services", "up"],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    @property
    def process(self) -> "subprocess.Popen[str]":
        assert self._process is not None
        return self._process

    def line(self, text: str) -> str:
        """Wait for the next line that has this text, and give it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return line
        raise AssertionError(f"it ended before it said {text!r}: {self.process.communicate()[1]}")

    def ready(self) -> Self:
        """Wait until it has said that it is ready."""
        self.url = self.line("ready: ").split()[1]
        self.family()
        return self

    def family(self) -> list[psutil.Process]:
        """Give its children of now, and remember them for `left`."""
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        self._family += [child for child in children if child not in self._family]
        return children

    def child(self, name: str) -> psutil.Process:
        """Give the first child whose command line names it, such as "projector" or "gpusim openai"."""
        return next(child for child in self.family() if name in command_line(child))

    def left(self) -> list[psutil.Process]:
        """Give the children, of all that were seen, that do not end although it has ended."""
        alive: list[psutil.Process] = psutil.wait_procs(self._family, timeout=10)[1]
        return alive

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it as Ctrl-C does, and give its exit code."""
        self.family()
        self.process.send_signal(number)
        try:
            self.process.communicate(timeout=STOPS_S)
        except subprocess.TimeoutExpired:
            alive = [command_line(child) for child in self._family if child.is_running()]
            raise AssertionError(f"not ended after {STOPS_S} s; alive are {alive}") from None
        return self.process.returncode

    def kill(self) -> None:
        """Kill -9."""
        self.family()
        self.process.kill()
        self.process.communicate()

    def refusal(self) -> str:
        """Wait for it to give up, and give the one line that says why."""
        _, err = self.process.communicate()
        assert self.process.returncode == 1
        assert err.startswith("taskfold: ")
        assert err.count("\n") == 1, err
        return err


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Make]:
    """Make instances that are gone when the test ends; they share a data folder unless told otherwise."""
    made: list[Instance] = []

    def make(**settings: object) -> Instance:
        made.append(Instance(tmp_path, **settings))
        return made[-1]

    yield make
    for instance in made:
        if instance._process is not None and instance.process.poll() is None:  # noqa: SLF001 - it is ours
            instance.kill()


def status(url: str) -> int:
    with urllib.request.urlopen(url) as answer:
        code: int = answer.status
        return code


def test_it_starts_everything_and_says_where(up: Make) -> None:
    instance = up().start().ready()
    assert status(f"{instance.url}/readyz") == 200
    running = [command_line(child) for child in instance.family()]
    for name in (*PROCESSES, *SIMULATORS):
        assert any(name in line for line in running), name
    assert len(running) == len(PROCESSES) + len(SIMULATORS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_stops_with_exit_code_0_and_leaves_no_process(up: Make, number: int) -> None:
    instance = up(simulated_gpus=1).start().ready()
    assert instance.stop(number) == 0
    assert instance.left() == []


def test_killed_it_leaves_no_process(up: Make) -> None:
    instance = up().start().ready()
    instance.kill()
    assert instance.left() == []


def test_killed_while_it_starts_it_leaves_no_process(up: Make) -> None:
    instance = up().start()
    instance.line("nats-server")
    instance.kill()
    assert instance.left() == []


def test_stopped_while_it_starts_it_leaves_no_process(up: Make) -> None:
    instance = up().start()
    instance.line("nats-server")
    assert instance.stop() == 0
    assert instance.left() == []


@pytest.mark.parametrize("name", [*PROCESSES, "gpusim sdcpp"])
def test_a_child_that_is_killed_runs_again(up: Make, name: str) -> None:
    instance = up(simulated_gpus=1).start().ready()
    first = instance.child(name)
    port = listening(first)
    first.kill()
    assert "was killed by SIGKILL, starting again in 0.5 s" in instance.line("starting again")
    second = eventually(lambda: again(instance, name, first))
    assert eventually(lambda: listening(second) if port else {0}) == (port or {0})


def again(instance: Instance, name: str, first: psutil.Process) -> psutil.Process | None:
    return next((c for c in instance.family() if c != first and name in command_line(c)), None)


def listening(process: psutil.Process) -> set[int]:
    return {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def eventually(find: Callable[[], T | None]) -> T:
    """Wait until there is something to find; the test's time limit ends the wait."""
    while not (found := find()):
        pass
    return found


def test_a_second_ctrl_c_ends_it_at_once(up: Make) -> None:
    instance = up(simulated_gpus=1, drain_grace_s=600).start().ready()
    instance.child("dispatcher").suspend()
    instance.process.send_signal(signal.SIGINT)
    instance.line("stopping")
    instance.process.send_signal(signal.SIGINT)
    instance.process.communicate()
    assert instance.process.returncode == 0
    assert instance.left() == []


@pytest.mark.parametrize("end", [Instance.stop, Instance.kill])
def test_started_again_it_goes_on_where_it_was(up: Make, end: Callable[[Instance], object]) -> None:
    first = up().start().ready()
    task = submit(first.url)
    end(first)
    second = up().start().ready()
    assert eventually(lambda: known(second.url, task)) == task


def submit(url: str) -> str:
    request = urllib.request.Request(
        f"{url}/api/v1/image/async",
        json.dumps({"prompt": "a red fox in the snow"}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        task_id: str = json.load(answer)["task_id"]
        return task_id


def known(url: str, task: str) -> str | None:
    try:
        with urllib.request.urlopen(f"{url}/api/v1/tasks/{task}") as answer:
            task_id: str = json.load(answer)["task_id"]
            return task_id
    except urllib.error.HTTPError:
        return None


def test_two_instances_with_their_own_folders_do_not_disturb_one_another(up: Make, tmp_path: Path) -> None:
    one = up(data_dir=tmp_path / "one", simulated_gpus=1).start()
    two = up(data_dir=tmp_path / "two", simulated_gpus=1).start()
    assert status(f"{one.ready().url}/readyz") == status(f"{two.ready().url}/readyz") == 200
    assert one.url != two.url


def test_a_kind_with_a_url_is_not_simulated(up: Make) -> None:
    instance = up(WHISPER_URL_1="http://127.0.0.1:9", simulated_gpus=1).start().ready()
    assert [line for child in instance.family() if "gpusim" in (line := command_line(child))] == [
        command_line(instance.child("gpusim sdcpp"))
    ]
