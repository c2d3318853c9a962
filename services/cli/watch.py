"""Tasks, followed to their end: bars on a terminal, lines in a pipe.

The one rule: a stream that breaks off is taken up where it was, so nothing is shown twice or left out.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from schemas.task import FINAL, Status
from services.cli import show
from services.cli.client import Api, Json, connected, task_path
from services.cli.failures import Exit
from services.cli.running import say

Look = Callable[[Json, bytes], None]
"""Is shown each event of any task, decoded and as it came."""
_REASON: Final = 40


async def watch(url: str, ids: Sequence[str], *, as_json: bool) -> Exit:
    """Follow tasks until all have ended."""
    unique = list(dict.fromkeys(ids))
    async with connected(url, say) as api:
        with _display(unique, as_json=as_json) as look:
            statuses = await _all(api, unique, look)
    return Exit.DONE if all(status is Status.DONE for status in statuses) else Exit.TASK


async def wait(api: Api, task_id: str) -> Status:
    """Follow one task, its bar on standard error if that is a terminal."""
    console = Console(stderr=True)
    display = _bars([task_id], console) if console.is_terminal else contextlib.nullcontext(_nothing)
    with _told([task_id]), display as look:
        return await _one(api, task_id, look)


async def _all(api: Api, ids: Sequence[str], look: Look) -> list[Status]:
    with _told(ids):
        async with asyncio.TaskGroup() as group:
            jobs = [group.create_task(_one(api, task_id, look)) for task_id in ids]
    return [job.result() for job in jobs]


async def _one(api: Api, task_id: str, look: Look) -> Status:
    """Follow a task to its end, and give how it ended."""
    async with contextlib.aclosing(api.follow(task_path(task_id, "/events"))) as frames:
        async for frame in frames:
            event = api.decoded(frame.data)
            look(event, frame.data)
            status = show.STATUS_AFTER.get(event["type"])
            if status in FINAL:
                return status
    return Status((await api.json(task_path(task_id)))["status"])


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


def _display(ids: Sequence[str], *, as_json: bool) -> contextlib.AbstractContextManager[Look]:
    if as_json:
        return contextlib.nullcontext(lambda _, raw: click.echo(raw))
    console = Console()
    return _bars(ids, console) if console.is_terminal else contextlib.nullcontext(_line)


def _nothing(event: Json, raw: bytes) -> None:
    """Show nothing."""


def _line(event: Json, raw: bytes) -> None:  # noqa: ARG001 - a Look
    if event["type"] != show.PROGRESS:
        click.echo(show.event_line(event))


@contextlib.contextmanager
def _bars(ids: Sequence[str], console: Console) -> Iterator[Look]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        rows = {task_id: progress.add_task(task_id, total=1.0, state="") for task_id in ids}

        def look(event: Json, _: bytes) -> None:
            _advance(progress, rows[event["task_id"]], event)

        yield look


def _advance(progress: Progress, row: TaskID, event: Json) -> None:
    fraction, state = bar(event)
    if fraction is not None:
        progress.update(row, completed=fraction)
    if state is not None:
        progress.update(row, state=state)
    if show.STATUS_AFTER.get(event["type"]) in FINAL:
        progress.refresh()


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
