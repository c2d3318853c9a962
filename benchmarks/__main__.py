"""The command line: ``python -m benchmarks``, or ``make bench``.

The one rule: the whole of it takes a few minutes, and ``--save`` alone writes what is kept.
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
import msgspec
import uvloop
from msgspec import Struct

from benchmarks import (
    foretold,
    gaps,
    listening,
    machine,
    memory,
    rebuilding,
    scale,
    soak,
    started,
    status,
    stewardship,
    submit,
    throughput,
)
from benchmarks.machine import Machine, Noise
from benchmarks.measure import Figure, table
from benchmarks.rig import ROOT, Bench
from services import clock, process, telemetry
from services.settings import Settings

RESULTS: Final = Path(__file__).with_name("results")
SCRATCH: Final = ROOT / ".cache"
"""Where the store is: on the disk of the checkout, since /tmp may be none."""

FIGURES: Final[dict[str, Callable[[Bench], Awaitable[list[Figure]]]]] = {
    "submit": submit.measure,
    "status": status.measure,
    "started": started.measure,
    "gap": gaps.in_call,
    "gap-polled": gaps.polled,
    "throughput": throughput.measure,
    "stewardship": stewardship.measure,
    "memory": memory.measure,
}
LONG: Final[dict[str, Callable[[Bench], Awaitable[list[Figure]]]]] = {
    "stewardship-long": stewardship.measure_long,
    "eta": foretold.measure,
    "scale": scale.measure,
    "rebuild": rebuilding.measure,
    "sse": listening.measure,
    "soak": soak.measure,
}
"""These take minutes each, and are taken when they are asked for."""


class Taken(Struct, frozen=True, kw_only=True):
    """Figures that were taken together, and the noise at that time."""

    load_average: tuple[float, float, float]
    others_share: float
    took_s: float
    figures: list[Figure]


class Report(Struct, frozen=True, kw_only=True):
    taken_at: str
    machine: Machine
    runs: int
    size: float
    results: list[Taken]


@click.command()
@click.option(
    "--only", multiple=True, type=click.Choice([*FIGURES, *LONG]), help="Take this figure; may repeat."
)
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1), help="Runs of each figure.")
@click.option(
    "--size",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Take scale, rebuild, sse and soak at so large a part of their full size.",
)
@click.option("--save", is_flag=True, help="Keep the results under today's date, to be committed.")
def main(only: tuple[str, ...], runs: int, size: float, *, save: bool) -> None:
    """Measure Taskfold beside its floors, in the shipped configuration.

    Ends with 1 where something happened that never may.
    """
    telemetry.configure("bench", "warning", "text")
    process.settle_garbage()
    try:
        report = uvloop.run(_all(only or tuple(FIGURES), runs, size))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(130) from None
    _write(report, "latest")
    if save:
        _write(report, report.taken_at[:10])
    if any(figure.faults for taken in report.results for figure in taken.figures):
        raise SystemExit(1)


async def _all(names: tuple[str, ...], runs: int, size: float) -> Report:
    _end_on_sigterm()
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=SCRATCH) as name:
        folder = Path(name)
        here = machine.describe(folder, Settings().nats_sync)
        _introduce(here, runs)
        async with aiohttp.ClientSession() as http:
            bench = Bench(folder, http, runs, size)
            results = [await _take(bench, (FIGURES | LONG)[name]) for name in names]
    taken_at = clock.now().isoformat(timespec="seconds")
    return Report(taken_at=taken_at, machine=here, runs=runs, size=size, results=results)


def _end_on_sigterm() -> None:
    """Let SIGTERM do what Ctrl-C does: end every process, and remove what they wrote."""
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


async def _take(bench: Bench, measure: Callable[[Bench], Awaitable[list[Figure]]]) -> Taken:
    load, noise, began = os.getloadavg(), Noise(), time.monotonic()
    figures = await measure(bench)
    taken = Taken(
        load_average=load,
        others_share=round(noise.share(), 3),
        took_s=round(time.monotonic() - began, 1),
        figures=figures,
    )
    for figure in figures:
        print(f"\n{table(figure)}", flush=True)
    if taken.took_s >= 1:
        one, five, _ = load
        others = f"others had {taken.others_share:.0%} of the processors"
        print(f"  {taken.took_s:.0f} s, load average before {one:.2f} {five:.2f}; {others}", flush=True)
    return taken


def _introduce(here: Machine, runs: int) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    print(
        f"{here.machine}, {here.cores} cores, {here.system}",
        f"store on {here.file_system}, sync_interval: {here.sync_interval}",
        versions,
        f"commit {here.commit}; {runs} runs of each figure, floor and ours in turns",
        sep="\n",
        flush=True,
    )


def _write(report: Report, name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    print(f"\nwritten to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
