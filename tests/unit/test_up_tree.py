"""The process tree, with small real processes for children."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

from services.process import StartError
from services.up.tree import (
    FIRST_DELAY_S,
    HEALTHY_S,
    LONGEST_DELAY_S,
    MAX_LOG_BYTES,
    Child,
    Command,
    Tree,
    describe,
    next_delay,
    open_log,
    run_once,
    tail,
)


def python(tmp_path: Path, script: str, name: str = "child", **more: float) -> Command:
    return Command(
        name=name,
        argv=(sys.executable, "-c", script),
        env=dict(os.environ),
        log=tmp_path / f"{name}.log",
        grace_s=more.get("grace_s", 20),
        stage=int(more.get("stage", 0)),
        limit=int(more.get("limit", 3)),
    )


class Terminal:
    """What the person at the terminal is told; a test waits for a line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = asyncio.Event()

    def say(self, line: str) -> None:
        self.lines.append(line)
        self._changed.set()

    async def line(self, number: int) -> str:
        while len(self.lines) < number:
            self._changed.clear()
            await self._changed.wait()
        return self.lines[number - 1]


@asynccontextmanager
async def planted(terminal: Terminal) -> AsyncIterator[Tree]:
    async with asyncio.TaskGroup() as group:
        tree = Tree(group, terminal.say)
        try:
            yield tree
        finally:
            await tree.stop()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - another process makes it true
        await asyncio.sleep(0.005)


async def wrote(child: Child, text: str) -> list[str]:
    """Wait until the child, as it runs now, has written that."""
    await until(lambda: text in child.last_words())
    return child.last_words()


WAITS = "import os, time; print(os.getpid(), os.getpgid(0)); print('up', flush=True); time.sleep(600)"
REFUSES_TO_END = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITS


def test_delays_double_up_to_the_longest_and_start_anew_after_a_healthy_life() -> None:
    delays = [next_delay(None, 0)]
    for _ in range(6):
        delays.append(next_delay(delays[-1], 0.1))
    assert delays == [FIRST_DELAY_S, 1, 2, 4, 8, LONGEST_DELAY_S, LONGEST_DELAY_S]
    assert next_delay(8, HEALTHY_S) == FIRST_DELAY_S


def test_an_ending_is_told_by_its_signal_or_its_code() -> None:
    assert describe(-9) == "was killed by SIGKILL"
    assert describe(3) == "ended with exit code 3"


async def test_a_child_is_the_head_of_its_own_process_group(tmp_path: Path) -> None:
    async with planted(Terminal()) as tree:
        words = await wrote(tree.start(python(tmp_path, WAITS)), "up")
    pid, group = words[0].split()
    assert pid == group
    assert not psutil.pid_exists(int(pid))


async def test_a_killed_child_is_started_again_and_the_terminal_told(tmp_path: Path) -> None:
    terminal = Terminal()
    async with planted(terminal) as tree:
        child = tree.start(python(tmp_path, WAITS))
        first = int((await wrote(child, "up"))[0].split()[0])
        os.kill(first, signal.SIGKILL)
        line = await terminal.line(1)
        await until(lambda: f"{first} {first}" not in child.last_words())
        second = int((await wrote(child, "up"))[0].split()[0])
    assert second != first
    assert line == (
        f"child was killed by SIGKILL, starting again in 0.5 s; its log is {tmp_path / 'child.log'}"
    )


async def test_a_child_that_dies_too_often_before_the_tree_is_up_is_hopeless(tmp_path: Path) -> None:
    async with planted(Terminal()) as tree:
        child = tree.start(python(tmp_path, "print('first'); raise SystemExit('no luck')", limit=1))
        tree.check()
        await until(lambda: child.hopeless)
        with pytest.raises(StartError, match="child does not start: no luck"):
            tree.check()


async def test_once_the_tree_is_up_no_death_is_the_last(tmp_path: Path) -> None:
    terminal = Terminal()
    async with planted(terminal) as tree:
        child = tree.start(python(tmp_path, "raise SystemExit(1)", limit=1))
        tree.settle()
        assert await terminal.line(2)
        assert not child.hopeless


async def test_a_program_that_is_not_there_is_told_in_the_log(tmp_path: Path) -> None:
    command = Command(name="ghost", argv=("/no/such",), env={}, log=tmp_path / "ghost.log", limit=1)
    async with planted(Terminal()) as tree:
        child = tree.start(command)
        await until(lambda: child.hopeless)
        with pytest.raises(StartError, match="ghost does not start: cannot run /no/such: No such file"):
            tree.check()


async def test_a_child_that_does_not_end_in_its_grace_is_killed(tmp_path: Path) -> None:
    terminal = Terminal()
    async with planted(terminal) as tree:
        pid = int(
            (await wrote(tree.start(python(tmp_path, REFUSES_TO_END, grace_s=0.05)), "up"))[0].split()[0]
        )
    assert terminal.lines == ["child did not end in 0.05 s and is killed"]
    assert not psutil.pid_exists(pid)


async def test_kill_ends_what_would_not_end_for_long(tmp_path: Path) -> None:
    terminal = Terminal()
    async with planted(terminal) as tree:
        await wrote(tree.start(python(tmp_path, REFUSES_TO_END, grace_s=600)), "up")
        asyncio.get_running_loop().call_soon(tree.kill)
    assert terminal.lines == []


async def test_stages_end_one_after_the_other(tmp_path: Path) -> None:
    tells = f"""
import os, signal, time
def end(*_):
    os.write(os.open({str(tmp_path / "order")!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b"%s\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(600)
"""
    async with planted(Terminal()) as tree:
        for stage in (2, 0, 1):
            child = tree.start(python(tmp_path, tells % stage, name=f"s{stage}", stage=stage))
            await wrote(child, "up")
    assert (tmp_path / "order").read_text().split() == ["0", "1", "2"]


async def test_a_child_stopped_while_it_waits_to_start_again_stays_away(tmp_path: Path) -> None:
    terminal = Terminal()
    async with planted(terminal) as tree:
        tree.start(python(tmp_path, "raise SystemExit(1)"))
        await terminal.line(1)
    assert len(terminal.lines) == 1


ORPHANS = """
import asyncio, os, sys
from pathlib import Path
from services.up.tree import Command, Tree
async def main():
    async with asyncio.TaskGroup() as group:
        Tree(group, print).start(Command(
            name="child", argv=(sys.executable, "-c", {script!r}), env=dict(os.environ), log=Path({log!r})))
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
async def test_children_die_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    script = ORPHANS.format(script=WAITS, log=str(log))
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    await until(lambda: "up" in tail(log, 0))
    child = psutil.Process(int(tail(log, 0)[0].split()[0]))
    assert child.ppid() == parent.pid
    parent.kill()
    await parent.wait()
    assert psutil.wait_procs([child], timeout=20)[1] == []


async def test_one_shots_give_their_output_and_their_reason_for_failing(tmp_path: Path) -> None:
    assert list(await run_once(python(tmp_path, "print('made it'); print('and this')"))) == [
        "made it",
        "and this",
    ]
    with pytest.raises(StartError, match="child failed: no luck"):
        await run_once(python(tmp_path, "raise SystemExit('taskfold: no luck')"))


def test_a_large_log_is_put_aside_before_it_is_continued(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"x" * MAX_LOG_BYTES)
    start, file = open_log(log)
    file.write(b"y")
    file.close()
    assert start == MAX_LOG_BYTES
    start, file = open_log(log)
    file.close()
    assert start == 0
    assert (tmp_path / "x.log.1").stat().st_size == MAX_LOG_BYTES + 1


def test_the_tail_of_a_log_is_what_was_written_since(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("old\nnew\n\n  newer\n")
    assert tail(log, 4) == ["new", "newer"]
    assert tail(tmp_path / "absent.log", 0) == []
