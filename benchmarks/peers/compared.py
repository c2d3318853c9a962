"""The same job on Taskfold and on its peers: a picture is drawn by one of some GPUs that take no time.

The one rule: each has fresh servers on the same disk and the machine for itself, and its own floor right
before it; none may say that it has a task before that is on the disk.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from msgspec import Struct

from benchmarks.measure import MILLISECONDS, Figure, spread
from benchmarks.peers import brokers, environment, turns
from benchmarks.peers.roster import PEERS, Peer
from benchmarks.peers.turns import Sizes, Turn
from benchmarks.rig import Bench, Rig
from benchmarks.throughput import GPUS, WHAT_THEY_ARE

BURST: Final = 1000
CALM: Final = 200
SERIES: Final = "peers"
FLOOR: Final = "loops that ask the same GPUs without any queue"

Take = Callable[[Rig, list[str]], Awaitable[Turn]]


class Contender(Struct, frozen=True):
    """Who it is, how its turn is taken, and what is said beside its rate, its latency and its cost."""

    name: str
    take: Take
    rate_notes: tuple[str, ...]
    calm_note: str
    cpu_note: str


Both = tuple[Turn, Turn]
"""The turn of the floor, and that of the contender after it."""


async def measure(bench: Bench) -> list[Figure]:
    """Take everyone in every run; a peer whose broker is not on this machine is left out, and named."""
    python = await asyncio.to_thread(environment.python)
    sizes = Sizes(bench.sized(BURST), bench.sized(CALM))
    absent = {peer.name: missing for peer in PEERS if (missing := brokers.missing(peer.programs))}
    there = [_contender(peer, python, sizes) for peer in PEERS if peer.name not in absent]
    everyone = [taskfold(sizes, absent), *there]
    taken: list[list[Both]] = [[] for _ in everyone]
    for _ in range(bench.runs):
        for contender, pairs in zip(everyone, taken, strict=True):
            async with _rig(bench) as (rig, urls):
                before = await turns.floor(rig, urls, sizes)
                pairs.append((before, await contender.take(rig, urls)))
    return [figure for each in zip(everyone, taken, strict=True) for figure in figures(*each)]


@contextlib.asynccontextmanager
async def _rig(bench: Bench) -> AsyncIterator[tuple[Rig, list[str]]]:
    async with bench.rig(queue_limit=100_000) as rig:
        yield rig, await rig.instant_gpus(GPUS)


def taskfold(sizes: Sizes, absent: dict[str, list[str]]) -> Contender:
    left_out = [f"left out is {name}: no {', no '.join(missing)} here" for name, missing in absent.items()]
    return Contender(
        name="Taskfold",
        take=lambda rig, _: turns.taskfold(rig, sizes),
        rate_notes=(
            "in nats-server, which syncs every message",
            "over HTTP, where a peer's client speaks with its broker itself",
            WHAT_THEY_ARE,
            *left_out,
        ),
        calm_note="its client is answered when the task ends",
        cpu_note="of nats-server, dispatcher, projector, api, which does a part of peers' clients",
    )


def _contender(peer: Peer, python: str, sizes: Sizes) -> Contender:
    return Contender(
        name=peer.name,
        take=lambda rig, urls: turns.peer(rig, peer, python, urls, sizes),
        rate_notes=(
            f"{environment.versions(peer.packages)}; in {peer.store}",
            f"keeps {peer.kept}",
            f"when a worker dies: {peer.crash}",
            f"has not: {peer.lacks}",
        ),
        calm_note=f"its client {peer.told}",
        cpu_note="of its worker and its broker",
    )


def figures(contender: Contender, taken: Sequence[Both]) -> list[Figure]:
    """Give a contender's rate, latency and cost, each with its floor."""
    return [_rate(contender, taken), _calm(contender, taken), _cpu(contender, taken)]


def _rate(contender: Contender, taken: Sequence[Both]) -> Figure:
    return Figure(
        name=f"peers, rate, {contender.name}",
        what="from the first submission to the last end, instant GPUs",
        floor_what=FLOOR,
        unit="tasks/s",
        ours=spread([[ours.tasks_a_second] for _, ours in taken]),
        floor=spread([[floor.tasks_a_second] for floor, _ in taken]),
        notes=contender.rate_notes,
        more_is_better=True,
        series=SERIES,
    )


def _calm(contender: Contender, taken: Sequence[Both]) -> Figure:
    return Figure(
        name=f"peers, submitted to done, {contender.name}",
        what="one task after the other, about twenty a second",
        floor_what="the call to the GPU alone",
        unit=MILLISECONDS,
        ours=spread([ours.calm_ms for _, ours in taken]),
        floor=spread([floor.calm_ms for floor, _ in taken]),
        notes=(contender.calm_note,),
        series=f"{SERIES}, submitted to done",
    )


def _cpu(contender: Contender, taken: Sequence[Both]) -> Figure:
    return Figure(
        name=f"peers, processor time of a task, {contender.name}",
        what="in the burst, of all but the client and the GPUs",
        floor_what="the process that asks the GPUs without any queue",
        unit=MILLISECONDS,
        ours=spread([[ours.cpu_ms] for _, ours in taken]),
        floor=spread([[floor.cpu_ms] for floor, _ in taken]),
        notes=(contender.cpu_note,),
        series=f"{SERIES}, processor time",
    )
