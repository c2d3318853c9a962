"""What is kept of a run, and where: a file of JSON by its date in ``benchmarks/results``.

The one rule: what a reader needs to judge a figure is kept beside it.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from benchmarks.machine import Machine
from benchmarks.measure import Figure

RESULTS: Final = Path(__file__).with_name("results")
LATEST: Final = "latest"
"""The file of the last run, which is not to be committed."""
RUNS: Final = 3
SIZE: Final = 1.0
_DATED: Final = "????-??-??.json"


class Taken(Struct, frozen=True, kw_only=True):
    """Figures that were taken together under a name, and the noise at that time.

    ``syncs``: how often the servers wrote to the disk, as the setting ``nats_sync`` says it. ``size``: at
    which part of their full size, None where they have none. ``pace_ms``: how long a fixed piece of work
    took one processor just before.
    """

    name: str
    load_average: tuple[float, float, float]
    others_share: float
    took_s: float
    syncs: tuple[str, ...]
    runs: int
    size: float | None
    figures: list[Figure]
    pace_ms: float | None = None

    @property
    def command(self) -> str:
        """Give the command that takes these figures as they were taken here."""
        runs = f" --runs {self.runs}" if self.runs != RUNS else ""
        size = f" --size {self.size:g}" if self.size not in (None, SIZE) else ""
        return f"python -m benchmarks --only {self.name}{runs}{size}"


class Report(Struct, frozen=True, kw_only=True):
    """What was taken of one commit on one machine; ``taken_at`` is when the last of it was begun."""

    taken_at: str
    machine: Machine
    results: list[Taken]


def write(report: Report, name: str, folder: Path = RESULTS) -> Path:
    """Write a report under a name; gives its file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return path


def save(report: Report, folder: Path = RESULTS) -> Path:
    """Keep a report under its date, beside what was taken there of the same commit on that day."""
    day = report.taken_at[:10]
    earlier = read(folder / f"{day}.json")
    if earlier and earlier.machine == report.machine:
        anew = {taken.name: taken for taken in report.results}
        kept = [anew.pop(taken.name, taken) for taken in earlier.results]
        report = replace(report, results=[*kept, *anew.values()])
    return write(report, day, folder)


def read(path: Path) -> Report | None:
    """Read a report; None where there is none, or an older version wrote it in another form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def dated(folder: Path = RESULTS) -> list[Path]:
    """Give the files that were saved, the newest first."""
    return sorted(folder.glob(_DATED), reverse=True)
