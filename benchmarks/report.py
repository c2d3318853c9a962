"""The report of a run, as a page with pictures: ``python -m benchmarks.report``, or ``make bench-report``.

The one rule: all that lies in the folder of the report was made by this, so what is no longer drawn goes.
"""

from pathlib import Path
from typing import Final

import click

from benchmarks import kept, page, plots
from benchmarks.kept import Report
from benchmarks.rig import ROOT

FOLDER: Final = ROOT / "docs" / "performance"


@click.command()
@click.argument("results", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(results: Path | None) -> None:
    """Write docs/performance/ from RESULTS, by default from those that were saved last."""
    path = results or next(iter(kept.dated()), None)
    if path is None:
        raise click.ClickException("there are no results; take some: python -m benchmarks --save")
    report = kept.read(path)
    if report is None:
        raise click.ClickException(
            f"{path.name} is of an older form; take it anew: python -m benchmarks --save"
        )
    write(report, FOLDER)
    print(f"written to {FOLDER.relative_to(ROOT)}")


def write(report: Report, folder: Path) -> None:
    """Write the page and its pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    if floored := page.floored(report):
        (folder / page.RATIOS).write_bytes(plots.ratios(floored))
    for taken in report.results:
        for name, figures in page.pictures(taken).items():
            (folder / name).write_bytes(plots.series(figures))
    (folder / "index.html").write_text(page.page(report), encoding="utf-8")


if __name__ == "__main__":
    main()
