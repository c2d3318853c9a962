"""The command line as a person uses it: real commands and processes, in pipes and on a terminal."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from asyncio import subprocess as processes
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyte
import pytest

from schemas.ids import TaskId, parse_task_id
from services.gpusim.model import Fault
from tests import speech
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, Json, eventually
from tests.nats import free_port

PROGRAM = (sys.executable, "-m", "services")
SMALL = ("--width", "256", "--height", "256", "--steps", "4")
UNKNOWN = "0199d4e8-7c1a-7000-8000-0123456789ab"
COLUMNS, LINES = 100, 30


class Ran(msgspec.Struct, frozen=True):
    """What a command left behind."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Json:
        return msgspec.json.decode(self.out, type=dict[str, Any])


class User:
    """Somebody with a shell, in a folder of their own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.folder = cluster.folder / "user"
        self.folder.mkdir(exist_ok=True)
        root = str(Path(__file__).parents[2])
        self.env = {**cluster.environment(), "TASKFOLD_URL": cluster.url, "PYTHONPATH": root}

    async def start(self, *arguments: str) -> processes.Process:
        return await asyncio.create_subprocess_exec(
            *PROGRAM,
            *arguments,
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def run(self, *arguments: str, stdin: bytes = b"") -> Ran:
        process = await self.start(*arguments)
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return Ran(process.returncode, out, err.decode())

    async def id(self, *flags: str) -> TaskId:
        done = await self.run("submit", "image", "a red fox", *SMALL, *flags)
        assert done.code == 0, done.err
        return parse_task_id(done.text.removesuffix("\n"))

    async def done(self) -> TaskId:
        """Give a task that is DONE."""
        task_id = await self.id()
        await self.cluster.finished(task_id)
        return task_id


async def line_with(stream: asyncio.StreamReader | None, text: str) -> str:
    """Read on to the first line that has this text."""
    assert stream is not None
    async for line in stream:
        if text in line.decode():
            return line.decode()
    raise AssertionError(f"it ended without {text!r}")


@pytest.fixture
async def user(make_cluster: MakeCluster) -> User:
    """Somebody beside a cluster with one image GPU."""
    cluster = make_cluster()
    await cluster.gpu("IMAGE_GEN_URL_1")
    await cluster.up()
    return User(cluster)


class Terminal:
    """A command on a terminal of its own, whose screen can be looked at."""

    def __init__(self, user: User, *arguments: str) -> None:
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        os.set_blocking(self._main, False)
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments],
            cwd=user.folder,
            env={**user.env, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)},
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
        )
        os.close(side)

    def text(self) -> str:
        with contextlib.suppress(OSError):  # nothing new, or it has ended
            while chunk := os.read(self._main, 65536):
                self._stream.feed(chunk)
        return "\n".join(self._screen.display)

    async def shows(self, *parts: str) -> str:
        async def look() -> str | None:
            text = self.text()
            return text if all(part in text for part in parts) else None

        return await eventually(look, f"the screen shows {parts}")

    def types(self, text: str) -> None:
        os.write(self._main, text.encode())

    async def ended(self) -> int:
        async def look() -> tuple[int] | None:
            self.text()  # else it may wait for a reader
            code = self.process.poll()
            return None if code is None else (code,)

        return (await eventually(look, "the command ends"))[0]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)


@contextlib.contextmanager
def terminal(user: User, *arguments: str) -> Iterator[Terminal]:
    opened = Terminal(user, *arguments)
    try:
        yield opened
    finally:
        opened.close()


@contextlib.asynccontextmanager
async def hanging(user: User) -> AsyncIterator[str]:
    """Give a task that runs until the block ends."""
    gpu = user.cluster.gpus["IMAGE_GEN_URL_1"]
    await gpu.script(Fault.HANG)
    task_id = await user.id()
    await user.cluster.reached(task_id, "RUNNING")
    try:
        yield task_id
    finally:
        await gpu.clear()


async def test_a_picture_from_submission_to_a_file(user: User) -> None:
    done = await user.run("submit", "image", "a red fox", *SMALL, "-o", "fox.png")

    assert done.code == 0, done.err
    assert done.out == b""
    assert "wrote fox.png" in done.err
    assert (user.folder / "fox.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in user.folder.iterdir()] == ["fox.png"]


async def test_several_pictures_go_into_numbered_files_and_one_into_a_pipe(user: User) -> None:
    two = await user.run("submit", "image", "-", *SMALL, "--n", "2", "-o", "fox.png", stdin=b"two foxes\n")
    one = await user.run("submit", "image", "one", *SMALL, "-o", "-")
    refused = await user.run("submit", "image", "two", "--n", "2", "-o", "-")

    assert two.code == 0, two.err
    assert {path.name for path in user.folder.iterdir()} == {"fox.png", "fox-2.png"}
    assert one.out.startswith(b"\x89PNG")
    assert one.out.endswith(b"IEND\xaeB`\x82")
    assert refused.code == 2
    listed = (await user.run("tasks", "--json")).json["tasks"]
    assert [task["request"]["prompt"] for task in listed] == ["one", "two foxes"]


async def test_an_id_alone_is_printed_and_all_members_arrive(user: User) -> None:
    flags = {
        "--negative-prompt": "rain",
        "--seed": "7",
        "--guidance": "3.5",
        "--sampler": "euler",
        "--model": "qwen-image",
        "--priority": "high",
        "--start-deadline-s": "60",
        "--user": "me",
        "--run-timeout-s": "30",
        "--max-attempts": "2",
        "--idempotency-key": "k",
        "--delay-s": "0",
        "--metadata": '{"order": 7}',
    }
    typed = [part for pair in flags.items() for part in pair]
    task_id = await user.id(*typed, "--tag", "a", "--tag", "b,c")
    again = await user.id(*typed, "--tag", "a", "--tag", "b,c")
    document = (await user.run("get", task_id, "--json")).json

    assert again == task_id
    assert document["tags"] == ["a", "b,c"]
    assert document["metadata"] == {"order": 7}
    assert (document["priority"], document["user"]) == ("high", "me")
    assert document["request"]["negative_prompt"] == "rain"
    assert document["request"]["seed"] == 7


async def test_a_recording_becomes_text_and_the_suffix_says_its_form(make_cluster: MakeCluster) -> None:
    clip = next(iter(speech.clips()))
    cluster = make_cluster()
    await cluster.gpu("WHISPER_URL", profile="whisper", models=("whisper",))
    await cluster.up()
    user = User(cluster)

    flags = ("--temperature", "0", "--word-timestamps", "--metadata", '{"order": 7}')
    text = await user.run("submit", "speech", str(clip), "--wait", "--tag", "a", *flags)
    made = json.loads((await user.run("tasks", "--json")).text)["tasks"][0]
    subtitles = await user.run("submit", "speech", "-", "-o", "a.srt", stdin=clip.read_bytes())

    assert text.code == subtitles.code == 0, text.err + subtitles.err
    assert text.text.strip()
    assert (made["request"]["word_timestamps"], made["metadata"]) == (True, {"order": 7})
    assert "-->" in (user.folder / "a.srt").read_text()


async def test_watch_in_a_pipe_prints_a_line_for_each_event(user: User) -> None:
    task_id = await user.id()
    lines = await user.run("watch", task_id)
    as_json = await user.run("watch", task_id, "--json")

    shown = [line.split()[1:3] for line in lines.text.splitlines()]
    assert shown[0] == [task_id, "task.submitted"]
    assert shown[-1] == [task_id, "task.done"]
    assert "backend=image-1" in lines.text
    assert lines.code == as_json.code == 0
    events = [json.loads(line) for line in as_json.text.splitlines()]
    assert events[-1]["type"] == "task.done"


async def test_watch_goes_on_when_the_api_is_killed_and_started_again(user: User) -> None:
    cluster = user.cluster
    api = next(process for process in cluster._processes if process.name == "api")  # noqa: SLF001 - to kill it
    async with hanging(user) as task_id:
        watching = await user.start("watch", task_id)
        await line_with(watching.stdout, "task.started")
        api.kill()
        assert "lost the connection" in await line_with(watching.stderr, "taskfold: ")
        await cluster.start("api")
    out, err = await watching.communicate()

    rest = [line.split()[2] for line in out.decode().splitlines()]
    assert rest[-1] == "task.done"
    assert not {"task.submitted", "task.started"} & set(rest), "nothing is shown twice"
    assert err == b"", "it is said once"
    assert watching.returncode == 0


async def test_watch_on_a_terminal_draws_a_bar_for_each_task(user: User) -> None:
    async with hanging(user) as first:
        second = await user.id()
        with terminal(user, "watch", first, second) as screen:
            shown = await screen.shows(first, second, "RUNNING", "QUEUED", "━")
            assert len([line for line in shown.splitlines() if "━" in line]) == 2
            await user.cluster.gpus["IMAGE_GEN_URL_1"].clear()
            assert await screen.ended() == 0
            assert screen.text().count("DONE") == 2


async def test_ctrl_c_leaves_the_task_and_says_how_to_go_on(user: User) -> None:
    async with hanging(user) as task_id:
        watching = await user.start("watch", task_id)
        await line_with(watching.stdout, "task.started")
        watching.send_signal(signal.SIGINT)
        _, err = await watching.communicate()
        document = await user.run("get", task_id, "--json")

        assert watching.returncode == 130
        for command in (f"taskfold watch {task_id}", f"taskfold cancel {task_id}"):
            assert command in err.decode()
        assert err.decode().count("\n") == 1
        assert document.json["status"] == "RUNNING"


async def test_ctrl_c_on_a_terminal_ends_a_submission_that_waits(user: User) -> None:
    await user.cluster.gpus["IMAGE_GEN_URL_1"].script(Fault.HANG)
    with terminal(user, "submit", "image", "fox", "-o", "fox.png") as screen:
        await screen.shows("RUNNING")
        screen.process.send_signal(signal.SIGINT)
        assert await screen.ended() == 130
        assert "the task goes on" in screen.text()
    assert list(user.folder.iterdir()) == []
    await user.cluster.gpus["IMAGE_GEN_URL_1"].clear()


async def test_a_cancelled_task_ends_those_who_wait_for_it_with_1(user: User) -> None:
    task_id = await user.id("--delay-s", "3600")
    watching = await user.start("watch", task_id)
    await line_with(watching.stdout, "task.scheduled")
    cancelled = await user.run("cancel", task_id, "--reason", "enough")
    out, _ = await watching.communicate()
    again = await user.run("cancel", task_id, "--json")
    fetched = await user.run("get", task_id, "-o", "fox.png")

    assert cancelled.text == f"{task_id} CANCELLED\n"
    assert "reason=enough" in out.decode()
    assert again.json["outcome"] == "ALREADY_CANCELLED"
    assert (watching.returncode, cancelled.code, again.code, fetched.code) == (1, 0, 0, 1)
    assert "CANCELLED" in fetched.err
    assert list(user.folder.iterdir()) == []


async def test_a_failed_task_says_why_and_ends_with_1(user: User) -> None:
    await user.cluster.gpus["IMAGE_GEN_URL_1"].script(Fault.HTTP500, count=5)
    done = await user.run("submit", "image", "fox", *SMALL, "--max-attempts", "1", "--wait")

    assert done.code == 1
    assert done.out == b""
    assert "is FAILED: " in done.err


async def test_a_refusal_is_one_line_and_3_and_names_the_member(user: User) -> None:
    for arguments, part in (
        (("submit", "image", "fox", "--width", "3"), "member width"),
        (("submit", "image", "fox", "--model", "gpt"), "qwen-image"),
        (("get", UNKNOWN), "unknown_task"),
        (("watch", UNKNOWN), "unknown_task"),
        (("history", "nope"), "invalid_id"),
        (("tasks", "--status", "LOST"), "RUNNING"),
    ):
        done = await user.run(*arguments)
        assert done.code == 3, arguments
        assert part in done.err
        assert done.err.startswith("taskfold: ")
        assert done.err.count("\n") == 1
        assert done.out == b""


async def test_a_header_that_cannot_be_sent_is_wrong_usage(user: User) -> None:
    done = await user.run("submit", "image", "fox", "--idempotency-key", "a\nb")

    assert done.code == 2
    assert "cannot be sent" in done.err


async def test_a_result_before_its_time_is_refused(user: User) -> None:
    task_id = await user.id("--delay-s", "3600")
    done = await user.run("get", task_id, "-o", "fox.png")

    assert done.code == 3
    assert "not_finished" in done.err


async def test_an_instance_that_is_away_is_4(user: User) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    for arguments in (("tasks",), ("watch", UNKNOWN), ("submit", "image", "fox"), ("top",)):
        done = await user.run(*arguments, "--url", nowhere)
        assert done.code == 4
        assert f"cannot reach {nowhere}" in done.err
        assert done.err.count("\n") == 1

    user.cluster.nats.kill()

    async def refused() -> Ran | None:
        done = await user.run("submit", "image", "fox")
        return done if done.code == 4 else None

    assert "taskfold: " in (await eventually(refused, "NATS is away")).err
    user.cluster.nats.start()


async def test_lists_show_what_there_is_in_a_pipe_on_a_terminal_and_as_json(user: User) -> None:
    task_id = await user.done()
    for arguments, head, part in (
        (("tasks", "--kind", "image", "--limit", "1"), "ID ", "DONE"),
        (("counts", "--kind", "image"), "KIND ", "image"),
        (("backends",), "NAME ", "image-1"),
        (("queues",), "KIND ", "image"),
        (("history", task_id), "SEQUENCE ", "task.done"),
        (("top",), "KIND ", "image-1"),
    ):
        piped = await user.run(*arguments)
        assert piped.code == 0, piped.err
        assert piped.text.startswith(head)
        assert part in piped.text
        assert "\x1b" not in piped.text
        as_json = await user.run(*arguments, "--json")
        assert as_json.code == 0
        assert as_json.json
    with terminal(user, "tasks") as screen:
        assert await screen.ended() == 0
        assert task_id in screen.text()


async def test_top_fills_the_screen_with_what_runs_and_ctrl_c_leaves_it(user: User) -> None:
    async with hanging(user) as task_id:
        with terminal(user, "top") as screen:
            await screen.shows("WAITING", "image-1", "1/1", task_id, "Ctrl-C")
            screen.process.send_signal(signal.SIGINT)
            assert await screen.ended() == 0


async def test_tasks_can_be_followed_without_a_gap(user: User) -> None:
    first = await user.done()
    following = await user.start("tasks", "--follow", "--kind", "image", "--json")
    assert first in await line_with(following.stdout, "DONE")
    second = await user.id()
    for name in ("submitted", "started", "done"):
        assert second in await line_with(following.stdout, f"task.{name}")
    following.send_signal(signal.SIGINT)
    await following.communicate()
    assert following.returncode == 130


async def test_a_reader_that_leaves_ends_a_command_silently(user: User) -> None:
    await user.done()
    following = await user.start("tasks", "--follow")
    await line_with(following.stdout, "ID ")
    following._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # noqa: SLF001 - as head does
    ids = [await user.id() for _ in range(2)]
    assert ids
    assert following.stderr is not None
    assert await following.stderr.read() == b""
    assert await following.wait() == 141


async def test_doctor_finds_nothing_wrong_with_what_runs_and_says_what_is(user: User) -> None:
    well = await user.run("doctor", "--json")
    assert well.code == 0, well.text
    assert {finding["level"] for finding in well.json["findings"]} == {"ok"}
    names = {finding["what"] for finding in well.json["findings"]}
    assert {"python", "data_dir", "nats-server", "jetstream", "api", "clock", "backend image-1"} <= names

    user.env["WHISPER_URL"] = f"http://127.0.0.1:{free_port()}"
    user.env["TASKFOLD_NATS_URL"] = f"nats://127.0.0.1:{free_port()}"
    ill = await user.run("doctor")
    assert ill.code == 1
    failing = [line.split()[1] for line in ill.text.splitlines() if line.startswith("fail")]
    assert failing == ["nats-server", "backend"]
    assert "TASKFOLD_NATS_URL" in ill.text
