"""Tasks, followed to their end: bars on a terminal, lines in a pipe.

The one rule: a stream that breaks off is taken up where it was, so nothing is shown twice or left out.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from schemas.task import FINAL, WAITING, Status
from services import clock, process
from services.cli import show, standing
from services.cli.client import Api, Json, connected, task_path
from services.cli.failures import EndError, Exit
from services.cli.running import say

Look = Callable[[Json, bytes], None]
"""Is shown each event of any task, decoded and as it came."""
_REASON: Final = 40
_EVERY_S: Final = 2.0


class Display(NamedTuple):
    """``stands`` is shown, now and then, the document of a task that waits; None: nobody would see it."""

    look: Look
    stands: Callable[[Json], None] | None = None


async def watch(url: str, ids: Sequence[str], *, as_json: bool) -> Exit:
    """Follow tasks until all have ended."""
    unique = list(dict.fromkeys(ids))
    async with connected(url, say) as api:
        with _display(unique, as_json=as_json) as display:
            statuses = await _all(api, unique, display)
    return Exit.DONE if all(status is Status.DONE for status in statuses) else Exit.TASK


async def wait(api: Api, task_id: str) -> Status:
    """Follow one task, its bar on standard error if that is a terminal."""
    console = Console(stderr=True)
    bars = _bars([task_id], console) if console.is_terminal else contextlib.nullcontext(Display(_nothing))
    with _told([task_id]), bars as display:
        return await _one(api, task_id, display)


async def _all(api: Api, ids: Sequence[str], display: Display) -> list[Status]:
    with _told(ids):
        async with asyncio.TaskGroup() as group:
            jobs = [group.create_task(_one(api, task_id, display)) for task_id in ids]
    return [job.result() for job in jobs]


async def _one(api: Api, task_id: str, display: Display) -> Status:
    """Follow a task to its end, and give how it ended."""
    if display.stands is None:
        return await _followed(api, task_id, display.look)
    waiting = asyncio.Event()

    def look(event: Json, raw: bytes) -> None:
        display.look(event, raw)
        if event["type"] != show.PROGRESS:
            (waiting.set if show.STATUS_AFTER.get(event["type"]) in WAITING else waiting.clear)()

    async with process.background(_standings(api, task_id, display.stands, waiting)):
        return await _followed(api, task_id, look)


async def _followed(api: Api, task_id: str, look: Look) -> Status:
    async with contextlib.aclosing(api.follow(task_path(task_id, "/events"))) as frames:
        async for frame in frames:
            event = api.decoded(frame.data)
            look(event, frame.data)
            status = show.STATUS_AFTER.get(event["type"])
            if status in FINAL:
                return status
    return Status((await api.json(task_path(task_id)))["status"])


async def _standings(
    api: Api, task_id: str, stands: Callable[[Json], None], waiting: asyncio.Event
) -> None:
    """Look where a task stands, while it waits; runs until cancelled."""
    while True:
        await waiting.wait()
        with contextlib.suppress(EndError):  # away for a moment: the stream says so
            document = await api.json(task_path(task_id))
            if waiting.is_set():
                stands(document)
        await asyncio.sleep(_EVERY_S)


@contextlib.contextmanager
def _told(ids: Sequence[str]) -> Iterator[None]:
    """Say, when Ctrl-C ends this, that it does not end the tasks."""
    try:
        yield
    except asyncio.CancelledError:
        names = " ".join(ids)
        what = "the task goes on" if len(ids) == 1 else "the tasks go on"
        say(f"{what}; `taskfold watch {names}` follows, `taskfold cancel {names}` ends")
        raise


def _display(ids: Sequence[str], *, as_json: bool) -> contextlib.AbstractContextManager[Display]:
    if as_json:
        return contextlib.nullcontext(Display(lambda _, raw: click.echo(raw)))
    console = Console()
    return _bars(ids, console) if console.is_terminal else contextlib.nullcontext(Display(_line))


def _nothing(event: Json, raw: bytes) -> None:
    """Show nothing."""


def _line(event: Json, raw: bytes) -> None:  # noqa: ARG001 - a Look
    if event["type"] != show.PROGRESS:
        click.echo(show.event_line(event))


@contextlib.contextmanager
def _bars(ids: Sequence[str], console: Console) -> Iterator[Display]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        rows = {task_id: progress.add_task(task_id, total=1.0, state="") for task_id in ids}

        def look(event: Json, _: bytes) -> None:
            _advance(progress, rows[event["task_id"]], event)

        def stands(document: Json) -> None:
            progress.update(rows[document["task_id"]], state=waits(document, clock.now()))

        yield Display(look, stands)


def _advance(progress: Progress, row: TaskID, event: Json) -> None:
    fraction, state = bar(event)
    if fraction is not None:
        progress.update(row, completed=fraction)
    if state is not None:
        progress.update(row, state=state)
    if show.STATUS_AFTER.get(event["type"]) in FINAL:
        progress.refresh()


def waits(document: Json, now: datetime) -> str:
    """Give what stands beside the bar of a task that waits."""
    return f"{document['status']} {standing.sentence(document, now)}".rstrip()


def bar(event: Json) -> tuple[float | None, str | None]:
    """Give how full a task's bar is after an event, and what stands beside it; None: as before."""
    data: Json = event["data"]
    if event["type"] == "task.attached":  # where it runs has been said, and is not in this one
        return None, None
    if event["type"] == show.PROGRESS:
        return data["fraction"], f"RUNNING {data['fraction']:.0%}"
    status = show.STATUS_AFTER.get(event["type"], event["type"])
    reason = data["error"]["message"] if data.get("error") else data.get("backend", "")
    fraction = {"task.done": 1.0, "task.submitted": 0.0, "task.started": 0.0}.get(event["type"])
    return fraction, show.clean(f"{status} {reason[:_REASON]}".rstrip())
