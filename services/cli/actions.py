"""The commands that end tasks, erase them and make them again, as click sees them.

The one rule: they act on the ids that are named, or on what a filter means, and never on both.
"""

from typing import Any

import click

from services.cli.filtering import filtered, given
from services.cli.running import addressed, run

_ids = click.argument("ids", metavar="[ID...]", nargs=-1)
_all = click.option("--all", "everything", is_flag=True, help="Every one of them; instead of a filter.")
_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
_set = click.option(
    "--set",
    "members",
    metavar="NAME=VALUE",
    multiple=True,
    help="Another value of any member; null leaves it out. May be given several times.",
)


def _meant(ids: tuple[str, ...], chosen: dict[str, str], *, everything: bool) -> None:
    """Refuse what names nothing, or two things at once."""
    if sum((bool(ids), bool(chosen), everything)) != 1:
        raise click.UsageError("name ids, or a filter such as --tag, or --all: one of the three")


@click.command()
@_ids
@filtered
@_all
@click.option("--reason", help="Why; it is kept with each task.")
@_yes
@addressed
def cancel(ids: tuple[str, ...], url: str, **flags: Any) -> None:  # Any: as click gives them
    """Cancel tasks, whether they wait or run: those named, or all that a filter means."""
    chosen = given(flags)
    _meant(ids, chosen, everything=flags["everything"])
    from services.cli import many  # noqa: PLC0415 - see commands

    reason, as_json = flags["reason"], flags["as_json"]
    if ids:
        run(many.cancel_each(url, ids, reason, as_json=as_json))
    run(many.cancel(url, chosen, reason, yes=flags["yes"], as_json=as_json))


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_yes
@addressed
def erase(ids: tuple[str, ...], url: str, *, yes: bool, as_json: bool) -> None:
    """Erase for good what finished tasks were asked for and what came of them; the facts stay."""
    from services.cli import many  # noqa: PLC0415 - see commands

    run(many.erase_each(url, ids, yes=yes, as_json=as_json))


@click.command()
@filtered
@click.option("--limit", type=int, help="At most so many.")
@click.option("--cursor", help="Go on where the last list ended.")
@addressed
def dead(url: str, *, as_json: bool, **query: Any) -> None:  # Any: as click gives them
    """List dead letters: tasks that have failed, and why, newest first."""
    from services.cli import lists  # noqa: PLC0415 - see commands

    asked = {name: str(value) for name, value in query.items() if value is not None}
    run(lists.dead(url, asked, as_json=as_json))


@click.command()
@click.argument("task_id", metavar="ID")
@click.option("--prompt", help="Another prompt.")
@click.option("--model", help="Another model.")
@click.option("--backend", help="Run there, while that GPU is in service.")
@_set
@click.option("--idempotency-key", "key", help="The same key and request is the same task.")
@click.option("--wait", is_flag=True, help="Wait for the end.")
@click.option("-o", "--output", metavar="FILE", help="Wait, and write the result there; - is stdout.")
@addressed
def replay(task_id: str, members: tuple[str, ...], **flags: Any) -> None:  # Any: as click gives them
    """Submit a task again, changed if you like, and print the new id."""
    from services.cli import many, submit  # noqa: PLC0415 - see commands

    wanted = submit.taken(flags)
    run(many.replay(task_id, members, submit.given(flags), wanted))


@click.command()
@_ids
@filtered
@_all
@_set
@_yes
@addressed
def redrive(
    ids: tuple[str, ...], members: tuple[str, ...], url: str, **flags: Any
) -> None:  # Any: as above
    """Submit failed tasks again and print the new ids: those named, or once all that a filter means."""
    chosen = given(flags)
    _meant(ids, chosen, everything=flags["everything"])
    from services.cli import many  # noqa: PLC0415 - see commands

    as_json = flags["as_json"]
    if ids:
        run(many.replay_each(url, ids, members, as_json=as_json))
    run(many.redrive(url, chosen, members, yes=flags["yes"], as_json=as_json))
