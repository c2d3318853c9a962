"""``taskfold simulate``, as click sees it.

The one rule: nothing but click is imported here, so that ``--help`` is quick.
"""

from typing import Final

import click

from services.cli.running import run, url

POLICIES: Final = (
    "least_expected_completion",
    "least_outstanding",
    "weighted",
    "round_robin",
    "user_affinity",
    "random",
)


@click.command()
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(POLICIES),
    help="Try this one; may be given several times. Else all.",
)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Replay what stands there, a JSON document a line: events, pages of events as `history --json` "
    "prints them, backends as `backends --json` does. - is standard input.",
)
@click.option("--scenario", type=click.Choice(["unequal"]), help="Replay something made up.")
@click.option(
    "--load",
    type=click.FloatRange(0, min_open=True),
    default=0.5,
    show_default=True,
    help="Of a scenario: the share of the GPUs' time that the work takes.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of a scenario: what is drawn by lot.")
@click.option(
    "--tasks",
    "most",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="So many: of a scenario, or at most, the last that were done.",
)
@url
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def simulate(  # noqa: PLR0913 - an option each
    policies: tuple[str, ...],
    file: str | None,
    scenario: str | None,
    load: float,
    seed: int,
    most: int,
    url: str,
    *,
    as_json: bool,
) -> None:
    """Replay the past, or a scenario, through other ways of balancing, and compare them."""
    if file and scenario:
        raise click.UsageError("--file and --scenario are two things to replay; choose one")
    from services.cli import replay  # noqa: PLC0415 - see the rule

    if scenario:
        past = replay.unequal(load, most, seed)
    elif file:
        past = replay.from_file(file, most)
    else:
        past = replay.from_api(url, most)
    run(replay.compare(past, policies or POLICIES, as_json=as_json))
