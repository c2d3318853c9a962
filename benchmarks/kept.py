"""What is kept of a run, and where: a file of JSON by its date in ``benchmarks/results``.

The one rule: what a reader needs to judge a figure is kept beside it.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

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

    ``syncs``: how often the servers wrote to the disk, as the setting ``nats_sync`` says it. ``by_size``:
    whether they depend on the size of the report.
    """

    name: str
    load_average: tuple[float, float, float]
    others_share: float
    took_s: float
    syncs: tuple[str, ...]
    by_size: bool = True
    figures: list[Figure]


class Report(Struct, frozen=True, kw_only=True):
    """One run of the benchmarks."""

    taken_at: str
    machine: Machine
    runs: int
    size: float
    results: list[Taken]

    def command(self, taken: Taken) -> str:
        """Give the command that takes these figures as they were taken here."""
        runs = f" --runs {self.runs}" if self.runs != RUNS else ""
        size = f" --size {self.size:g}" if taken.by_size and self.size != SIZE else ""
        return f"python -m benchmarks --only {taken.name}{runs}{size}"


def write(report: Report, name: str, folder: Path = RESULTS) -> Path:
    """Write a report under a name; gives its file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return path


def read(path: Path) -> Report | None:
    """Read a report; None where an older version of the benchmarks wrote it in another form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except msgspec.DecodeError:
        return None


def dated(folder: Path = RESULTS) -> list[Path]:
    """Give the files that were saved, the newest first."""
    return sorted(folder.glob(_DATED), reverse=True)
