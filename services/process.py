"""What every process does alike: settings, logs, loop, signals, and one clear line when it cannot start."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import NoReturn

import uvloop

from schemas.errors import RejectedError, TaskfoldError
from services import supervision, telemetry
from services.settings import Settings, SettingsError, load

Main = Callable[[Settings, asyncio.Event], Awaitable[None]]
"""A process: runs until it is done or the event is set, then drains and returns."""


class StartError(TaskfoldError):
    """The process cannot start; the text says why and what to do, on one line."""


def effective_settings(config: Path | None) -> Settings:
    """Load the settings or end the process with one line."""
    try:
        return load(os.environ, config)
    except (SettingsError, RejectedError) as error:
        give_up(str(error))


def run(process: str, main: Main, settings: Settings) -> None:
    """Run a process to its end; signals drain it; one that cannot start says a line and exits with 1."""
    telemetry.configure(process, settings.log_level, settings.log_format)
    try:
        uvloop.run(_until_signalled(main, settings))
    except* (StartError, SettingsError) as errors:
        give_up(str(_first(errors)))


async def _until_signalled(main: Main, settings: Settings) -> None:
    stop = asyncio.Event()

    def asked() -> None:
        supervision.stopping()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    async with background(supervision.keep_alive()):
        await main(settings, stop)


async def unless(stop: asyncio.Event, job: Coroutine[None, None, None]) -> bool:
    """Run a job to its end, and say so, unless the process is asked to stop before that."""
    asked, running = asyncio.create_task(stop.wait()), asyncio.create_task(job)
    try:
        await asyncio.wait((asked, running), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
            return True
        return False
    finally:
        asked.cancel()
        while not running.done():
            # Again and again, since a client that connects for ever may swallow one.
            running.cancel()
            await asyncio.wait((running,), timeout=0.1)


@contextlib.asynccontextmanager
async def at_most(seconds: float) -> AsyncIterator[None]:
    """Leave what is not done by then; who has to know looks at what became of it.

    Not by ``asyncio.wait_for``, which in Python 3.11 may swallow a cancel that comes with the end.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            yield


def _first(errors: BaseExceptionGroup) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def give_up(line: str) -> NoReturn:
    sys.stderr.write(f"taskfold: {line}\n")
    raise SystemExit(1)


def settle_garbage() -> None:
    """Keep the collector from scanning what start-up has built, and from looking too often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


@contextlib.asynccontextmanager
async def background(*jobs: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run jobs beside a block; they are cancelled when it ends, and their failure ends it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job) for job in jobs]
        yield
        for task in tasks:
            task.cancel()
