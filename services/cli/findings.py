"""What ``doctor`` makes of what it saw: a line for each thing, with what to do.

The one rule: pure; whoever looks gives what was seen, and here it is judged.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

MIB: Final = 2**20
GIB: Final = 2**30
_PYTHON: Final = (3, 11)
_NATS: Final = (2, 14)
_FULL: Final = 0.8  # where the api begins to refuse, see services/api/storage.py
_CLOCK_WARN_S: Final = 2.0
_CLOCK_FAIL_S: Final = 60.0


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(Struct, frozen=True):
    """``found`` says what is, ``advice`` what to do; empty where there is nothing to do."""

    level: Level
    what: str
    found: str
    advice: str = ""


def line(finding: Finding) -> str:
    advice = f"; {finding.advice}" if finding.advice else ""
    return f"{finding.level:<4}  {finding.what:<18}  {finding.found}{advice}"


def failed(findings: Sequence[Finding]) -> bool:
    return any(finding.level is Level.FAIL for finding in findings)


def python(version: tuple[int, int, int]) -> Finding:
    shown = ".".join(map(str, version))
    if version[:2] < _PYTHON:
        return Finding(Level.FAIL, "python", shown, "install Python 3.11 or newer, and make .venv anew")
    return Finding(Level.OK, "python", shown)


def port(name: str, number: int, holder: str | None, error: str | None) -> Finding:
    """``holder``: who of ours listens there, None for nobody; ``error``: why it cannot be had."""
    variable = f"TASKFOLD_{name.upper()}"
    if number == 0:
        return Finding(Level.OK, name, "0, which takes a free one")
    if holder is not None:
        return Finding(Level.OK, name, f"{number} is held by {holder}")
    if error is not None:
        advice = f"end what holds it, or set {variable} to another port"
        return Finding(Level.FAIL, name, f"{number} cannot be had: {error}", advice)
    return Finding(Level.OK, name, f"{number} is free")


def disk(folder: str, free: int, wanted_gib: float, *, writable: bool) -> Finding:
    found = f"{free / GIB:.1f} GiB free for {folder}"
    if not writable:
        return Finding(
            Level.FAIL, "data_dir", f"{folder} cannot be written", "change its owner, or TASKFOLD_DATA_DIR"
        )
    if free < GIB:
        return Finding(Level.FAIL, "data_dir", found, "make room, or set TASKFOLD_DATA_DIR to another disk")
    if free < wanted_gib * GIB:
        advice = (
            f"the store may grow to {wanted_gib:g} GiB: make room, or lower TASKFOLD_NATS_MAX_FILE_GIB "
            "and TASKFOLD_ARTIFACT_GIB"
        )
        return Finding(Level.WARN, "data_dir", found, advice)
    return Finding(Level.OK, "data_dir", found)


def nats_version(url: str, version: str) -> Finding:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    found = f"{version} at {url}"
    if numbers < _NATS:
        return Finding(Level.FAIL, "nats-server", found, "install 2.14 or newer")
    return Finding(Level.OK, "nats-server", found)


def nats_away(url: str, *, configured: bool) -> Finding:
    if configured:
        advice = "start it, or set TASKFOLD_NATS_URL to the one that runs"
        return Finding(Level.FAIL, "nats-server", f"nothing answers at {url}", advice)
    return Finding(Level.WARN, "nats-server", f"does not run at {url}", "`taskfold up` starts one")


def jetstream(info: dict[str, Any], wanted_gib: float) -> Finding:  # Any: JSON of the server
    """Judge the account's limit, by which new work is refused in time."""
    limit, used = info["limits"]["max_storage"], info["storage"]
    if limit <= 0:
        advice = "give its account a max_file, else the api cannot refuse work before the disk is full"
        return Finding(Level.FAIL, "jetstream", "the account has no limit of storage", advice)
    found = f"{used / MIB:,.0f} MiB of {limit / GIB:.1f} GiB are used"
    if used > _FULL * limit:
        advice = "new tasks are refused: raise max_file, or lower TASKFOLD_MAX_AGE_DAYS"
        return Finding(Level.FAIL, "jetstream", found, advice)
    if limit < 2 * wanted_gib * GIB:
        advice = f"raise max_file to twice TASKFOLD_ARTIFACT_GIB, which is {wanted_gib:g}, or lower that"
        return Finding(Level.WARN, "jetstream", found, advice)
    return Finding(Level.OK, "jetstream", found)


def api(url: str, status: int, reasons: Sequence[str], *, named: bool) -> Finding:
    """Judge /readyz; status 0 when nothing answers. ``named``: somebody says that it is there."""
    if status == 200:  # noqa: PLR2004 - HTTP
        return Finding(Level.OK, "api", f"{url} is ready")
    if status:
        said = "; ".join(reasons) or f"it answers {status}"
        return Finding(Level.FAIL, "api", f"{url} is not ready: {said}", "see its log in the data_dir")
    if named:
        return Finding(
            Level.FAIL, "api", f"nothing answers at {url}", "start it, or correct TASKFOLD_URL or --url"
        )
    return Finding(Level.WARN, "api", f"does not run at {url}", "`taskfold up` starts everything")


def clock(here: datetime, there: datetime) -> Finding:
    """Compare with the api's clock, which says whole seconds."""
    apart = (here - there).total_seconds() - 0.5
    found = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the api's"
    advice = "set the clock of one of them, best by NTP"
    if abs(apart) > _CLOCK_FAIL_S:
        return Finding(Level.FAIL, "clock", found, advice)
    if abs(apart) > _CLOCK_WARN_S:
        return Finding(Level.WARN, "clock", found, advice)
    return Finding(Level.OK, "clock", "as the api's")


def backend(name: str, url: str, wanted: str, status: int) -> Finding:
    """``status`` of any answer of the GPU server, 0 when there is none."""
    what = f"backend {name}"
    if wanted != "on":
        return Finding(Level.OK, what, f"{url} is {wanted}, and not asked")
    if not status:
        advice = "start its server, or correct its url; tasks wait or go to others until then"
        return Finding(Level.FAIL, what, f"nothing answers at {url}", advice)
    return Finding(Level.OK, what, f"{url} answers")


def no_backends(simulated: int) -> Finding:
    advice = "set IMAGE_GEN_URL_1 or WHISPER_URL"
    found = "none is configured"
    if simulated:
        found += f"; `taskfold up` simulates {simulated}"
    return Finding(Level.WARN, "backends", found, advice)
