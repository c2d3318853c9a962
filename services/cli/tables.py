"""Rows on a terminal as tables, in a pipe as aligned lines.

The one rule: what a program reads is never cut off or coloured.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services import clock
from services.cli import show
from services.cli.show import Row

_STYLES: Final = {
    "DONE": "green",
    "RUNNING": "cyan",
    "FAILED": "red",
    "EXPIRED": "red",
    "RETRYING": "yellow",
    "CANCELLED": "dim",
    "off": "dim",
    "gone": "dim",
    "draining": "yellow",
    "loading": "yellow",
    "overloaded": "yellow",
    "half_open": "yellow",
    "down": "red",
    "failing": "red",
    "stuck": "red",
    "misconfigured": "red",
    "open": "red",
}


def now_for_people() -> datetime | None:
    """Give the time where a person reads; a program gets times as they are."""
    return clock.now() if Console().is_terminal else None


def printed(head: Row, rows: Sequence[Row], empty: str) -> None:
    """Print rows; a person is told when there are none."""
    console = Console()
    if not console.is_terminal:
        for line in show.aligned(head, rows):
            click.echo(line)
    elif rows:
        console.print(table(head, rows))
    else:
        click.echo(empty)


def table(head: Row, rows: Sequence[Row]) -> Table:
    """Lay rows out; columns that say nothing in any of them are left out."""
    made = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    telling = [column for column in range(len(head)) if not rows or any(row[column] for row in rows)]
    for column in telling:
        last = column == telling[-1]  # which gives way where there is no room for all
        least = None if last else max(len(row[column]) for row in (head, *rows))
        made.add_column(
            head[column], no_wrap=head is not show.HISTORY, width=least, ratio=1 if last else None
        )
    for row in rows:
        made.add_row(*(Text(row[column], style=_STYLES.get(row[column], "")) for column in telling))
    return made
