"""The composition root of ``taskfold up``: everything on this machine, from one terminal.

The one rule: whatever ends this ends all of it, and started again on the same folder it goes on.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from services.cli.running import DEFAULT_URL
from services.process import StartError, at_most
from services.settings import Settings, masked
from services.up import folder, nats_server, plan, ports
from services.up.plan import Places
from services.up.tree import Child, Tree, run_once

_POLL_S: Final = 0.02
_REACH_S: Final = 5.0
_SLOW_S: Final = 10.0


class _Steps:
    """Tells the person at the terminal what was done, and how long it took."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = self._last = clock()

    def done(self, name: str, text: str) -> None:
        now = self._clock()
        say(f"  {name:<12} {text} ({now - self._last:.2f} s)")
        self._last = now

    def total(self) -> str:
        return f"{self._clock() - self._began:.1f} s"


class _Reminder:
    """Tells what is waited for, every now and then, so that nobody sits before a silent terminal."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._due = self._clock() + _SLOW_S

    def after_a_while(self, line: str) -> None:
        if self._clock() >= self._due:
            self._due += _SLOW_S
            say(f"  {line}")


async def serve(settings: Settings, stop: asyncio.Event, config: Path | None = None) -> None:
    """Run everything until `stop` is set; StartError says in one line why that cannot be."""
    loop = asyncio.get_running_loop()
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        loop.add_signal_handler(signal.SIGHUP, stop.set)
    with contextlib.ExitStack() as held:
        lock = held.enter_context(folder.claim(settings.data_path))
        places = _places(held, settings, config)
        async with asyncio.TaskGroup() as group:
            tree = Tree(group, say)
            try:
                await _unless(stop, _bring_up(tree, settings, places, lock))
                await stop.wait()
            finally:
                if stop.is_set():
                    say("stopping; Ctrl-C once more ends everything at once")
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.add_signal_handler(number, tree.kill)
                await tree.stop()
    say("stopped")


def say(line: str) -> None:
    """Tell the person at the terminal; one who has closed it is not told."""
    with contextlib.suppress(OSError):
        click.echo(line)


def _places(held: contextlib.ExitStack, settings: Settings, config: Path | None) -> Places:
    """Take the ports, those of a setting first, so that a free one is never one of them."""
    api_port = ports.reserve(held, settings.api_host, settings.api_port, "api_port")
    nats_url = settings.nats_url
    if nats_url is None:
        nats_server.check_room(settings)
        nats_port = ports.reserve(held, nats_server.HOST, settings.nats_port, "nats_port")
        nats_url = f"nats://{nats_server.HOST}:{nats_port}"
    return Places(
        api_port=api_port,
        nats_url=nats_url,
        config=config,
        simulators=tuple(
            (simulator, ports.reserve(held, "127.0.0.1", 0, "simulated_gpus"))
            for simulator in plan.simulators(settings)
        ),
    )


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Do the work, or drop it when `stop` comes first."""
    async with asyncio.TaskGroup() as group:
        tasks = {group.create_task(work), group.create_task(_set(stop))}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def _bring_up(tree: Tree, settings: Settings, places: Places, lock: int) -> None:
    steps = _Steps(asyncio.get_running_loop().time)
    say(f"taskfold starts; its data is in {settings.data_path}")
    env = plan.environment(settings, places, os.environ)
    await _start_nats(tree, settings, places, lock)
    steps.done("nats-server", masked(places.nats_url))
    changes = await run_once(plan.init_command(settings, env))
    for line in changes:
        say(f"  {'':<12} {line}")
    steps.done("init", f"{len(changes)} changes" if changes else "everything is as it should be")
    for command in plan.process_commands(settings, env):
        tree.start(command)
    for command in plan.simulator_commands(settings, places, env):
        tree.start(command)
    url = await _until_ready(tree, settings, places)
    tree.settle()
    names = ["api", "projector", "dispatcher", *(simulator.name for simulator, _ in places.simulators)]
    steps.done("processes", ", ".join(names))
    say(f"ready: {url} after {steps.total()}; Ctrl-C stops it; logs are in {settings.data_path / 'logs'}")
    say(_invitation(url))


async def _start_nats(tree: Tree, settings: Settings, places: Places, lock: int) -> None:
    if settings.nats_url is not None:
        await _until_reached(settings.nats_url)
        return
    port = urlsplit(places.nats_url).port or 0
    server = tree.start(nats_server.command(settings, port, lock, os.environ))
    await _until_greeted(server, port)
    server.settled = True


async def _until_greeted(server: Child, port: int) -> None:
    """Wait for nats-server, which greets once it has read its store, however long that takes."""
    reminder = _Reminder()
    while not await ports.first_line(nats_server.HOST, port):
        if server.hopeless:
            raise StartError(f"nats-server does not start: {nats_server.complaint(server.last_words())}")
        reminder.after_a_while(f"nats-server still reads its store; its log is {server.command.log}")
        await asyncio.sleep(_POLL_S)


async def _until_reached(urls: str) -> None:
    """Wait a moment for a NATS server of somebody else's; StartError when none of them answers."""
    async with at_most(_REACH_S):
        while True:
            for url in urls.split(","):
                parts = urlsplit(url if "://" in url else f"nats://{url}")
                if await ports.listens(parts.hostname or "127.0.0.1", parts.port or 4222):
                    return
            await asyncio.sleep(_POLL_S)
    raise StartError(f"no NATS server answers at {masked(urls)}; TASKFOLD_NATS_URL names it")


async def _until_ready(tree: Tree, settings: Settings, places: Places) -> str:
    """Wait for the api to say that it is ready, and give its address.

    A read model that is built anew takes as long as it takes; a process that dies again and again
    is a StartError.
    """
    host, reminder = ports.reachable(settings.api_host), _Reminder()
    while (answer := await ports.get(host, places.api_port, "/readyz"))[0] != 200:  # noqa: PLR2004 - HTTP
        tree.check()
        status, body = answer
        said = f"answers {status} {' '.join(body.split())[:300]}" if status else "does not answer"
        reminder.after_a_while(f"not ready yet: the api {said}; logs are in {settings.data_path / 'logs'}")
        await asyncio.sleep(_POLL_S)
    return f"http://{f'[{host}]' if ':' in host else host}:{places.api_port}"


def _invitation(url: str) -> str:
    elsewhere = "" if url == DEFAULT_URL else f"export TASKFOLD_URL={url}\n  "
    taskfold = _program()
    return f"""
Try, in another terminal:
  {elsewhere}{taskfold} submit image "a red fox in the snow" -o fox.png
  {taskfold} submit speech recording.wav -o recording.srt
  {taskfold} top
or with curl:
  curl {url}/api/v1/image/async -H 'content-type: application/json' -d '{{"prompt":"a red fox"}}'
"""


def _program() -> str:
    """Give how this program is called from here."""
    script = Path(sys.executable).with_name("taskfold")
    if not script.exists():
        return f"{sys.executable} -m services"
    if (found := shutil.which("taskfold")) and Path(found).samefile(script):
        return "taskfold"
    here = Path.cwd()
    return str(script.relative_to(here) if script.is_relative_to(here) else script)
