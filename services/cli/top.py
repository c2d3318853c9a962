"""The screen of ``top``: queues, backends and what runs on them, looked at every second.

The one rule: it only shows; while the api is away the last that was seen stays, and the screen says so.
"""

import asyncio
import contextlib
from typing import Final

import click
import msgspec
from msgspec import Struct
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services import clock
from services.cli import show, tables
from services.cli.client import API, Api, Json, connected
from services.cli.failures import AwayError
from services.cli.running import say

_EVERY_S: Final = 1.0
_BAR: Final = 20
_RUNNING: Final = {"status": "RUNNING", "limit": "200"}
_HEAD: Final = ("BACKEND", "TASK", "ATTEMPT", "PROGRESS")


class Seen(Struct, frozen=True):
    """One look at an instance."""

    queues: list[Json]
    lag: int | None
    backends: list[Json]
    progress: dict[str, float]


async def top(url: str, *, as_json: bool) -> None:
    """Show what goes on until Ctrl-C; once, where nobody watches."""
    console = Console()
    async with connected(url, say) as api:
        seen = await look(api)
        if as_json:
            click.echo(msgspec.json.encode(seen))
        elif console.is_terminal:
            with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C is how a screen is left
                await _live(api, console, seen)
        else:
            click.echo("\n".join(plain(seen)))


async def look(api: Api) -> Seen:
    queues = await api.json(f"{API}/queues")
    backends = await api.json(f"{API}/backends")
    running = (await api.json(f"{API}/tasks", _RUNNING))["tasks"]
    progress = {task["task_id"]: task["progress"]["fraction"] for task in running if task["progress"]}
    return Seen(queues["queues"], queues["lag"], backends["backends"], progress)


async def _live(api: Api, console: Console, seen: Seen) -> None:
    with Live(screen(seen, api.url), console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.refresh()
            await asyncio.sleep(_EVERY_S)
            note = ""
            try:
                seen = await look(api)
            except AwayError as error:
                note = str(error)
            live.update(screen(seen, api.url, note))


def screen(seen: Seen, url: str, note: str = "") -> RenderableType:
    head = Text(f"taskfold  {url}  {_lag(seen)}  Ctrl-C ends", style="bold")
    return Group(
        head,
        Text(note, style="red"),
        tables.table(show.QUEUES, [show.queue_row(queue, clock.now()) for queue in seen.queues]),
        Text(),
        tables.table(show.GPUS, [show.gpu_row(backend) for backend in seen.backends]),
        Text(),
        _attempts(seen),
    )


def _lag(seen: Seen) -> str:
    return "" if not seen.lag else f"read model {seen.lag} behind"


def attempts(seen: Seen) -> list[tuple[str, str, str, float | None]]:
    """Give what runs: backend, task, attempt, and how far it is where that is known."""
    return [
        (
            show.clean(backend["name"]),
            running["task_id"],
            str(running["attempt"]),
            seen.progress.get(running["task_id"]),
        )
        for backend in seen.backends
        for running in backend["running"]
    ]


def _attempts(seen: Seen) -> Table:
    table = Table(*_HEAD, box=None, header_style="bold", pad_edge=False)
    for backend, task_id, attempt, fraction in attempts(seen):
        bar = Text("?") if fraction is None else ProgressBar(1.0, fraction, width=_BAR)
        table.add_row(Text(backend), task_id, attempt, bar)
    return table


def plain(seen: Seen) -> list[str]:
    """Give the same as lines."""
    rows = [
        (backend, task_id, attempt, "" if fraction is None else f"{fraction:.0%}")
        for backend, task_id, attempt, fraction in attempts(seen)
    ]
    return [
        *show.aligned(show.QUEUES, [show.queue_row(queue) for queue in seen.queues]),
        "",
        *show.aligned(show.GPUS, [show.gpu_row(backend) for backend in seen.backends]),
        "",
        *show.aligned(_HEAD, rows),
    ]
