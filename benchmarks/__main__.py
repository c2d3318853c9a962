"""The command line: ``python -m benchmarks``, or ``make bench``.

The one rule: without ``--full`` it takes a few minutes, and ``--save`` alone writes what is kept.
"""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp
import click
import uvloop

from benchmarks import (
    behind,
    choosing,
    comparison,
    crowds,
    endpoint,
    foretold,
    gaps,
    heard,
    kept,
    listening,
    machine,
    memory,
    profiles,
    rates,
    rebuilding,
    scale,
    scaling,
    soak,
    started,
    status,
    stewardship,
    submit,
    throughput,
)
from benchmarks.kept import Report, Taken
from benchmarks.machine import Machine, Noise
from benchmarks.measure import Figure, table
from benchmarks.peers import compared
from benchmarks.rig import ROOT, Bench
from services import clock, process, telemetry

SCRATCH: Final = ROOT / ".cache"
"""Where the store is: on the disk of the checkout, since /tmp may be none."""

FIGURES: Final[dict[str, Callable[[Bench], Awaitable[list[Figure]]]]] = {
    "submit": submit.measure,
    "status": status.measure,
    "started": started.measure,
    "behind": behind.measure,
    "gap": gaps.in_call,
    "gap-polled": gaps.polled,
    "throughput": throughput.measure,
    "stewardship": stewardship.measure,
    "choice": choosing.measure,
    "memory": memory.measure,
}
LONG: Final[dict[str, Callable[[Bench], Awaitable[list[Figure]]]]] = {
    "stewardship-long": stewardship.measure_long,
    "eta": foretold.measure,
    "scale": scale.measure,
    "rebuild": rebuilding.measure,
    "sse": listening.measure,
    "soak": soak.measure,
    "profile": profiles.measure,
    "peers": compared.measure,
    "endpoint": endpoint.measure,
    "scaling": scaling.measure,
    "crowds": crowds.measure,
    "rates": rates.measure,
    "sse-latency": heard.measure,
}
"""These take minutes each, and are taken when they are asked for."""


@click.command()
@click.option(
    "--only", multiple=True, type=click.Choice([*FIGURES, *LONG]), help="Take this figure; may repeat."
)
@click.option("--full", is_flag=True, help="Take every figure, the long ones too: more than an hour.")
@click.option(
    "--runs", default=kept.RUNS, show_default=True, type=click.IntRange(1), help="Runs of each figure."
)
@click.option(
    "--size",
    default=kept.SIZE,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Take the large figures at so large a part of their full size.",
)
@click.option("--save", is_flag=True, help="Keep the results under today's date, to be committed.")
def main(only: tuple[str, ...], runs: int, size: float, *, full: bool, save: bool) -> None:
    """Measure Taskfold beside its floors, in the shipped configuration.

    Compares the figures with those that were saved last.
    Ends with 1 where something happened that never may.
    """
    telemetry.configure("bench", "warning", "text")
    process.settle_garbage()
    try:
        report = uvloop.run(_all(only or tuple(FIGURES | LONG if full else FIGURES), runs, size))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(130) from None
    _compare(report)
    if save:
        print(f"\nwritten to {kept.save(report).relative_to(ROOT)}")
    if any(figure.faults for taken in report.results for figure in taken.figures):
        raise SystemExit(1)


async def _all(names: tuple[str, ...], runs: int, size: float) -> Report:
    _end_on_sigterm()
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=SCRATCH) as name:
        folder = Path(name)
        here = machine.describe(folder)
        _introduce(here, runs)
        taken_at = clock.now().isoformat(timespec="seconds")
        report = Report(taken_at=taken_at, machine=here, results=[])
        async with aiohttp.ClientSession() as http:
            bench = Bench(folder, http, runs, size)
            for each in names:
                report.results.append(await _take(bench, each))
                kept.write(report, kept.LATEST)  # what was taken stays, whatever becomes of the rest
    return report


def _end_on_sigterm() -> None:
    """Let SIGTERM do what Ctrl-C does: end every process, and remove what they wrote."""
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _take(bench: Bench, name: str) -> Taken:
    pace_ms = round(machine.pace_ms(), 2)
    load, noise, began = os.getloadavg(), Noise(), time.monotonic()
    bench.begin()
    figures = await (FIGURES | LONG)[name](bench)
    taken = Taken(
        name=name,
        load_average=load,
        others_share=round(noise.share(), 3),
        took_s=round(time.monotonic() - began, 1),
        syncs=tuple(sorted(bench.syncs)),
        runs=bench.runs,
        size=bench.size if bench.by_size else None,
        figures=figures,
        pace_ms=pace_ms,
    )
    for figure in figures:
        print(f"\n{table(figure)}", flush=True)
    if taken.took_s >= 1:
        one, five, _ = load
        others = f"others had {taken.others_share:.0%} of the processors; pace {pace_ms:.2f} ms"
        print(f"  {taken.took_s:.0f} s, load average before {one:.2f} {five:.2f}; {others}")
    if taken.syncs:
        print(f"  sync of the server: {', '.join(taken.syncs)}", flush=True)
    return taken


def _introduce(here: Machine, runs: int) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    print(
        f"{here.machine}, {here.cores} cores, {here.system}",
        f"store on {here.file_system}",
        versions,
        f"commit {here.commit}; {runs} runs of each figure, floor and ours in turns",
        sep="\n",
        flush=True,
    )


def _compare(report: Report) -> None:
    """Print what became of the figures since the last results that can be read."""
    for path in kept.dated():
        if then := kept.read(path):
            print(f"\n{comparison.text(report, then)}")
            return
        print(f"\nnot compared with {path.name}: it is of an older form")


if __name__ == "__main__":
    main()
