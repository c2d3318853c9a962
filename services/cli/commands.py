"""The commands that look and follow, as click sees them.

The one rule: nothing but click is imported here, so that ``--help`` is quick; a command imports what it
needs.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from services.cli.filtering import filtered
from services.cli.running import addressed, run

_ids = click.argument("ids", metavar="ID...", nargs=-1, required=True)
_id = click.argument("task_id", metavar="ID")
_THEN: Final = ("at_seq", "at")
F = TypeVar("F", bound=Callable[..., Any])  # Any: a command, whatever its parameters


def _then(command: F) -> F:
    """Give a command the options that ask for how it was."""
    at = click.option("--at", metavar="TIME", help="As it was then, as 2026-11-24T09:00:00Z.")
    return click.option("--at-seq", metavar="N", help="As it was right after that sequence.")(at(command))


def _moment(flags: dict[str, str | None]) -> dict[str, str]:
    return {name: text for name in _THEN if (text := flags[name]) is not None}


@click.command()
@_ids
@addressed
def watch(ids: tuple[str, ...], url: str, *, as_json: bool) -> None:
    """Follow tasks until they have ended."""
    from services.cli import watch as following  # noqa: PLC0415 - see the rule

    run(following.watch(url, ids, as_json=as_json))


@click.command()
@_id
@click.option("-o", "--output", metavar="FILE", help="Write the result there; - is standard output.")
@_then
@addressed
def get(task_id: str, output: str | None, url: str, *, as_json: bool, **then: str | None) -> None:
    """Show a task, as it is or as it was, or with -o fetch its result."""
    from services.cli import lists  # noqa: PLC0415 - see the rule

    run(lists.get(url, task_id, output, _moment(then), as_json=as_json))


@click.command()
@click.argument("batch_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait until all have ended.")
@addressed
def batch(batch_id: str, url: str, *, wait: bool, as_json: bool) -> None:
    """Show how many tasks of a batch are in which status."""
    from services.cli import batches  # noqa: PLC0415 - see the rule

    run(batches.batch(url, batch_id, wait=wait, as_json=as_json))


@click.command()
@_id
@_then
@addressed
def history(task_id: str, url: str, *, as_json: bool, **then: str | None) -> None:
    """Show what happened to a task, and how long its attempts waited and ran."""
    from services.cli import lists  # noqa: PLC0415 - see the rule

    run(lists.history(url, task_id, _moment(then), as_json=as_json))


@click.command()
@filtered
@click.option("--limit", type=int, help="At most so many.")
@click.option("--cursor", help="Go on where the last list ended.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now on.")
@addressed
def tasks(url: str, *, follow: bool, as_json: bool, **query: str | int | None) -> None:
    """List tasks, newest first."""
    from services.cli import lists  # noqa: PLC0415 - see the rule

    asked = {name: str(value) for name, value in query.items() if value is not None}
    run(lists.tasks(url, asked, follow=follow, as_json=as_json))


@click.command()
@click.option("--kind", help="Only these: image or speech.")
@click.option("--tenant", help="Only this tenant's.")
@addressed
def counts(url: str, *, as_json: bool, **query: str | None) -> None:
    """Count the tasks of each kind in each status."""
    from services.cli import lists  # noqa: PLC0415 - see the rule

    asked = {name: value for name, value in query.items() if value is not None}
    run(lists.counts(url, asked, as_json=as_json))


@click.command()
@_then
@addressed
def queues(url: str, *, as_json: bool, **then: str | None) -> None:
    """List the queues and what waits in them, or waited then."""
    from services.cli import lists  # noqa: PLC0415 - see the rule

    run(lists.queues(url, _moment(then), as_json=as_json))


@click.command()
@addressed
def top(url: str, *, as_json: bool) -> None:
    """Show queues, GPUs and running tasks, every second anew."""
    from services.cli import top as screen  # noqa: PLC0415 - see the rule

    run(screen.top(url, as_json=as_json))
