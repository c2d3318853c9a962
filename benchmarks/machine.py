"""Where the figures were taken, and how much else was going on there.

The one rule: a figure is published with the noise that it was taken in.
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Final

from msgspec import Struct

from services.up import nats_server

_PACKAGES: Final = ("nats-py", "litestar", "uvicorn", "uvloop", "httptools", "aiohttp", "msgspec")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_IDLE: Final = (3, 4)  # idle and waiting for a disk, of the columns in /proc/stat
_GUEST: Final = 8  # those from here on are counted in the others already
_PACES: Final = 21
_PACE_ITEMS: Final = 20_000


class Machine(Struct, frozen=True, kw_only=True):
    """What a reader needs to know to compare."""

    machine: str
    cores: int
    system: str
    file_system: str
    versions: dict[str, str]
    commit: str


def describe(folder: Path) -> Machine:
    return Machine(
        machine=_processor(),
        cores=len(os.sched_getaffinity(0)),
        system=platform.platform(),
        file_system=_file_system(folder),
        versions={
            "python": platform.python_version(),
            "nats-server": _said(_nats_server(), "--version").rpartition("v")[2],
            **{name: metadata.version(name) for name in _PACKAGES},
        },
        commit=_commit(),
    )


class Noise:
    """What others did with the processors since this was made; our ended children are not others."""

    def __init__(self) -> None:
        self._busy, self._all = _processors_s()
        self._ours = _ours_s()

    def share(self) -> float:
        """Give the part of all processors' time that went to others, 0 to 1."""
        busy, everything = _processors_s()
        others = (busy - self._busy) - (_ours_s() - self._ours)
        return max(0.0, others / max(everything - self._all, 1e-9))


def pace_ms() -> float:
    """Give how long a fixed piece of Python takes one processor now, in ms: the median of several times.

    Machines of one name differ by half, and so do the hours of one.
    """
    return statistics.median(_once_ms() for _ in range(_PACES))


def _once_ms() -> float:
    began = time.perf_counter()
    {str(number): number * number for number in range(_PACE_ITEMS)}
    return (time.perf_counter() - began) * 1000


def _processors_s() -> tuple[float, float]:
    """Give the busy and the whole time of all processors."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    ticks = [int(word) / _TICKS_PER_S for word in words[:_GUEST]]
    whole = sum(ticks)
    return whole - sum(ticks[column] for column in _IDLE), whole


def _ours_s() -> float:
    """Give the processor time of this process and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _file_system(folder: Path) -> str:
    """Name the type and the device of the file system that a folder is on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    device, _, kind, *_ = max(holding, key=lambda mount: len(mount[1]))
    return f"{kind} on {device}"


def _nats_server() -> str:
    return nats_server.find(f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def _commit() -> str:
    """Name the commit, and say when the tree is not what was committed."""
    head = _said("git", "rev-parse", "--short=12", "HEAD") or "unknown"
    code = ("schemas", "services", "benchmarks", ":!benchmarks/results")
    changed = _said("git", "status", "--porcelain", "--", *code)
    return f"{head} with changes" if changed else head


def _said(*command: str) -> str:
    """Give what a command prints; nothing where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    return done.stdout.strip()
