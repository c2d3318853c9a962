"""The process tree: children that are restarted when they die and are gone when the tree ends.

The one rule: a child is a process group of its own, tied to us by ``child.py``; only this module
signals it.
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct

from services.process import StartError, at_most

FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 15.0
HEALTHY_S: Final = 30.0
"""After so long a life a child's next death counts as its first."""

LONGEST_RUN_S: Final = 120.0
"""Bound of what runs once, such as init."""

MAX_LOG_BYTES: Final = 10_000_000
_CHILD: Final = str(Path(__file__).with_name("child.py"))

Say = Callable[[str], None]
"""Tells the person at the terminal one line."""


class Command(Struct, frozen=True, kw_only=True):
    """What to run. `stage`: the lowest is stopped first. `limit`: deaths until it counts as hopeless."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    stage: int = 0
    grace_s: float = 10.0
    limit: int = 3
    keep_fds: tuple[int, ...] = ()


def next_delay(previous_s: float | None, lived_s: float) -> float:
    """How long to wait before the next start of a child that lived so long."""
    if previous_s is None or lived_s >= HEALTHY_S:
        return FIRST_DELAY_S
    return min(previous_s * 2, LONGEST_DELAY_S)


def describe(code: int) -> str:
    """Say how a process ended."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class Child:
    """One command, kept running from `keep` to `stop`."""

    def __init__(self, command: Command, say: Say) -> None:
        self.command = command
        self.deaths = 0
        self.settled = False
        """Set once the tree is up: from then on the child is restarted for ever."""
        self._say = say
        self._process: Process | None = None
        self._log_start = 0
        self._farewell: signal.Signals | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def hopeless(self) -> bool:
        """Whether it died too often to be started once more."""
        return not self.settled and self.deaths >= self.command.limit

    async def keep(self) -> None:
        """Run the command again and again until it is stopped or hopeless."""
        delay: float | None = None
        try:
            while not self._stopping.is_set() and not self.hopeless:
                lived_s, ending = await self._live()
                if self._stopping.is_set():
                    return
                self.deaths += 1
                delay = next_delay(delay, lived_s)
                if not self.hopeless:
                    again = f"starting again in {delay:g} s; its log is {self.command.log}"
                    self._say(f"{self.command.name} {ending}, {again}")
                    await self._pause(delay)
        finally:
            self.kill()
            self._ended.set()

    async def _live(self) -> tuple[float, str]:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            self._log_start, log = open_log(self.command.log)
            with log:
                self._process = await spawn(self.command, log, log)
            if self._farewell is not None:  # stopped while it was being started
                self._signal(self._farewell)
            ending = describe(await self._process.wait())
        except OSError as error:
            ending = f"cannot be started ({error.strerror})"
        self._process = None
        return clock() - began, ending

    async def _pause(self, seconds: float) -> None:
        async with at_most(seconds):
            await self._stopping.wait()

    async def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL when its grace is over."""
        self._stopping.set()
        self._farewell = self._farewell or signal.SIGTERM
        self._signal(self._farewell)
        try:
            async with asyncio.timeout(self.command.grace_s):
                await self._ended.wait()
        except TimeoutError:
            self._say(f"{self.command.name} did not end in {self.command.grace_s:g} s and is killed")
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        self._stopping.set()
        self._farewell = signal.SIGKILL
        self._signal(self._farewell)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    def last_words(self) -> list[str]:
        """Give what it wrote since its latest start, the last lines of it."""
        return tail(self.command.log, self._log_start)


class Tree:
    """All children. They live in the group; `stop` must be awaited before it closes."""

    def __init__(self, group: asyncio.TaskGroup, say: Say) -> None:
        self._group = group
        self._say = say
        self._children: list[Child] = []

    def start(self, command: Command) -> Child:
        child = Child(command, self._say)
        self._children.append(child)
        self._group.create_task(child.keep(), name=command.name)
        return child

    def check(self) -> None:
        """Raise StartError when a child is hopeless."""
        for child in self._children:
            if child.hopeless:
                words = child.last_words()
                reason = words[-1] if words else "it said nothing"
                raise StartError(f"{child.command.name} does not start: {reason}")

    def settle(self) -> None:
        """Everything is up: from now on no death is the last."""
        for child in self._children:
            child.settled = True

    async def stop(self) -> None:
        """End all, stage by stage; those of one stage at the same time."""
        for stage in sorted({child.command.stage for child in self._children}):
            async with asyncio.TaskGroup() as group:
                for child in self._children:
                    if child.command.stage == stage:
                        group.create_task(child.stop())

    def kill(self) -> None:
        for child in self._children:
            child.kill()


async def spawn(command: Command, out: BinaryIO | int, err: BinaryIO | int = STDOUT) -> Process:
    """Start the command in a process group of its own, tied to our life."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", _CHILD, str(os.getpid())),
        *command.argv,
        env=command.env,
        stdin=DEVNULL,
        stdout=out,
        stderr=err,
        start_new_session=True,
        pass_fds=command.keep_fds,
    )


async def run_once(command: Command) -> Sequence[str]:
    """Run a command to its end and give the lines of its standard output.

    Raises StartError with its last line when it fails.
    """
    start, log = open_log(command.log)
    with log:
        process = await spawn(command, PIPE, log)
    try:
        async with asyncio.timeout(LONGEST_RUN_S):
            out, _ = await process.communicate()
    except TimeoutError:
        raise StartError(
            f"{command.name} is not done after {LONGEST_RUN_S:g} s; its log is {command.log}"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        words = tail(command.log, start) or out.decode(errors="replace").splitlines()
        reason = words[-1] if words else describe(process.returncode)
        raise StartError(f"{command.name} failed: {reason.removeprefix('taskfold: ')}")
    return out.decode(errors="replace").splitlines()


def open_log(path: Path) -> tuple[int, BinaryIO]:
    """Open a log to append to, and say where its end is; a large one is put aside first."""
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
    log = path.open("ab")
    return log.tell(), log


def tail(path: Path, start: int) -> list[str]:
    """Give the lines that say something after `start`, at most the last 64 KiB of them."""
    try:
        with path.open("rb") as log:
            log.seek(max(start, path.stat().st_size - 65_536))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()]
