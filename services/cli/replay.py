"""The past, or something made up, through several policies, and how they did side by side.

The one rule: nothing is changed anywhere; what is replayed was read before, and may be read from a file.
"""

import asyncio
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
from msgspec import Struct

from schemas.errors import UndecodableError
from services.cli import tables
from services.cli.client import API, connected
from services.cli.failures import EndError, Exit
from services.cli.running import say
from services.cli.show import Row
from services.scheduling.fairness import Turns
from services.scheduling.outcome import Outcome, Percentiles
from services.scheduling.recorded import Past, Recording
from services.scheduling.scenarios import unequal_arrivals, unequal_machines
from services.scheduling.simulation import simulate

HEAD: Final[Row] = (
    *("POLICY", "WAIT P50", "P95", "P99", "TOTAL P50", "P95", "P99"),
    *("BUSY", "LOADS", "FAIR", "END OFF BY"),
)
_STDIN: Final = "-"
_LOAD_S: Final = 15.0
_PRECISE_S: Final = 100


class _Page(Struct, frozen=True):
    next: int | None = None


class Comparison(Struct, frozen=True):
    """What ``--json`` prints; times in seconds, see ``Outcome``."""

    tasks: int
    left_out: int
    backends: tuple[str, ...]
    outcomes: tuple[Outcome, ...]


async def compare(past: Awaitable[Past], policies: Sequence[str], *, as_json: bool) -> None:
    """Replay through each policy, and print how it did."""
    replayed = await past
    if not replayed.arrivals:
        raise EndError(Exit.USAGE, "nothing to replay: no task there is done")
    outcomes = []
    for policy in policies:
        await asyncio.sleep(0)  # lets Ctrl-C through
        outcomes.append(
            simulate(replayed.arrivals, replayed.machines, policy, Turns(), model_load_s=_LOAD_S)
        )
    if as_json:
        names = tuple(machine.name for machine in replayed.machines)
        document = Comparison(len(replayed.arrivals), replayed.left_out, names, tuple(outcomes))
        click.echo(msgspec.json.encode(document))
        return
    tables.printed(HEAD, [row(outcome) for outcome in outcomes], "")
    say(told(replayed))


async def unequal(load: float, tasks: int, seed: int) -> Past:
    """Make up the scenario ``unequal``."""
    arrivals = tuple(unequal_arrivals(load, tasks, seed))
    return Past(arrivals=arrivals, machines=tuple(unequal_machines()), left_out=0)


async def from_api(url: str, most: int) -> Past:
    """Read every event that the api still has, and the backends."""
    recording = Recording()
    after: int | None = 0
    async with connected(url, say) as api:
        try:
            recording.add(await api.get(f"{API}/backends"))
            while after is not None:
                page = await api.get(f"{API}/events", {"last_event_id": str(after)})
                recording.add(page)
                after = msgspec.json.decode(page, type=_Page).next
        except (UndecodableError, msgspec.DecodeError):
            raise EndError(Exit.REFUSED, f"{url} is no taskfold api; check --url or TASKFOLD_URL") from None
    return recording.past(most, _LOAD_S)


async def from_file(name: str, most: int) -> Past:
    """Read documents, one a line; EndError names the line that is none."""
    recording = Recording()
    for number, line in enumerate(_read(name).splitlines(), 1):
        try:
            if line.strip():
                recording.add(line)
        except UndecodableError:
            raise EndError(
                Exit.USAGE,
                f"{name}, line {number}: neither events nor backends; such as "
                "`taskfold history ID --json` and `taskfold backends --json` print are wanted",
            ) from None
    return recording.past(most, _LOAD_S)


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == _STDIN else Path(name).read_bytes()
    except OSError as error:
        raise EndError(Exit.USAGE, f"{name} cannot be read: {error.strerror}") from None


def row(outcome: Outcome) -> Row:
    """Give an outcome's row: how long tasks waited and took, how busy the GPUs were (least and most)."""
    busy = list(outcome.utilisation.values())
    return (
        outcome.policy,
        *_shown(outcome.waiting),
        *_shown(outcome.total),
        f"{sum(busy) / len(busy):.0%} ({min(busy):.0%}-{max(busy):.0%})",
        str(outcome.loads),
        "" if outcome.fairness is None else f"{outcome.fairness:.2f}",
        seconds(outcome.eta_error.p50),
    )


def told(past: Past) -> str:
    """Say what was replayed."""
    end_s = max(arrival.at_s for arrival in past.arrivals)
    text = f"{len(past.arrivals)} tasks that came in {seconds(end_s)} to {len(past.machines)} GPUs"
    return f"{text}; {past.left_out} that are not done are left out" if past.left_out else text


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < _PRECISE_S else f"{value:,.0f} s"


def _shown(percentiles: Percentiles) -> Row:
    return seconds(percentiles.p50), seconds(percentiles.p95), seconds(percentiles.p99)
