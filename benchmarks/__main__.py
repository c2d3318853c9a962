"""`make bench`: measure, print a table, and keep the results as JSON."""

import asyncio
import tempfile
from pathlib import Path

import click
from msgspec import json

from benchmarks.figures import FIGURES
from benchmarks.measure import machine, table
from services.telemetry import configure

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.option("--only", type=click.Choice(list(FIGURES)), multiple=True, help="Measure this alone.")
@click.option("--runs", default=3, show_default=True, help="Runs of each figure.")
@click.option("--save", help="Keep the results under this name in benchmarks/results.")
def main(only: tuple[str, ...], runs: int, save: str | None) -> None:
    """Measure what Taskfold costs, beside its floors, on the shipped server configuration."""
    configure("bench", "warning", "text")
    where = machine(Path(tempfile.gettempdir()))
    click.echo("  ".join(f"{name} {value}" for name, value in where.items()))
    figures = []
    for name in only or FIGURES:
        measured = asyncio.run(FIGURES[name](runs))
        click.echo(table(measured))
        figures += measured
    if save:
        content = json.format(json.encode({"machine": where, "figures": figures}), indent=1)
        (RESULTS / f"{save}.json").write_bytes(content + b"\n")


if __name__ == "__main__":
    main()
