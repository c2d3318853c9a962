"""The commands that look and follow, as click sees them.

The one rule: nothing but click is imported here, so that ``--help`` is quick; a command imports what it
needs.
"""

import click

from services.cli.filtering import filtered
from services.cli.running import addressed, run

_ids = click.argument("ids", metavar="ID...", nargs=-1, required=True)
_id = click.argument("task_id", metavar="ID")


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
@addressed
def get(task_id: str, output: str | None, url: str, *, as_json: bool) -> None:
    """Show a task, or with -o fetch its result."""
    from services.cli import lists  # noqa: PLC0415 - see the rule

    run(lists.get(url, task_id, output, as_json=as_json))


@click.command()
@_id
@addressed
def history(task_id: str, url: str, *, as_json: bool) -> None:
    """Show what happened to a task, and when."""
    from services.cli import lists  # noqa: PLC0415 - see the rule

    run(lists.history(url, task_id, as_json=as_json))


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
@addressed
def queues(url: str, *, as_json: bool) -> None:
    """List the queues and what waits in them."""
    from services.cli import lists  # noqa: PLC0415 - see the rule

    run(lists.queues(url, as_json=as_json))


@click.command()
@addressed
def top(url: str, *, as_json: bool) -> None:
    """Show queues, GPUs and running tasks, every second anew."""
    from services.cli import top as screen  # noqa: PLC0415 - see the rule

    run(screen.top(url, as_json=as_json))
