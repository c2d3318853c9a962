"""Streams of events by the thousand: what a client weighs, and how long an event takes to all of them.

The one rule: an event carries the moment of its sending, straight into the log, so that every client knows
by itself how late it is. Clients are in processes of their own.
"""

import asyncio
import itertools
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.listeners import Heard, stamp
from benchmarks.measure import MILLISECONDS, Figure, Samples, spread
from benchmarks.rig import Bench, Rig
from schemas import envelope, events, intake
from schemas.events import TaskAttached, TaskStarted, TaskSubmitted
from schemas.ids import BackendId
from schemas.requests import Kind
from schemas.subjects import Address, Lane
from services import clock
from services.bus.tasklog import TaskLog

GLOBAL: Final = 5_000
OWN: Final = 2_000
PROCESSES: Final = 2
SHOTS: Final = 20
BETWEEN_S: Final = 1.0
EVENTS_A_SECOND: Final = 500
LASTS_S: Final = 20.0
SETTLE_S: Final = 2.0
DISPATCHER: Final = "dispatcher-bench"
EVERYBODY: Final = "/api/v1/events"
_LIMITS: Final = intake.Limits(
    start_deadline_s=86_400, deadline_s=172_800, run_timeout_s=3_600, max_attempts=3, horizon_s=1_000_000
)
_BODY: Final = intake.flat(Kind.IMAGE, {"prompt": "a red fox in the snow", "seed": 1})
_LANE: Final = Lane("image", "any", "normal", 0)


async def measure(bench: Bench) -> list[Figure]:
    everybody = await _everybody(bench, bench.sized(GLOBAL))
    return [*everybody, await _own(bench, bench.sized(OWN))]


async def _everybody(bench: Bench, clients: int) -> list[Figure]:
    async with bench.rig(nats_sync="default") as rig:
        await rig.start("projector", "api")
        (address,) = await running(rig, 1)
        await asyncio.sleep(SETTLE_S)
        before = _weight(rig)
        listeners = await listen(rig, rig.url, [EVERYBODY] * clients)
        await asyncio.sleep(SETTLE_S)
        each = (_weight(rig) - before) / clients * 1000
        for _ in range(SHOTS):
            await send(rig, address, address.subject(TaskAttached))
            await asyncio.sleep(BETWEEN_S)
        heard = await heard_by(listeners)
        after = (_weight(rig) - before) / clients * 1000
    lasts, missing = _lasts(heard, clients, SHOTS)
    return [
        Figure(
            name="memory of a stream",
            what=f"of the api, {clients:,} clients of all events",
            floor_what="",
            unit="kB each",
            ours=spread([[each]]),
            notes=(f"after {SHOTS} events to everybody {after:.1f} kB",),
        ),
        Figure(
            name="an event to everybody",
            what=f"from its sending to the last of {clients:,} clients",
            floor_what="",
            unit=MILLISECONDS,
            ours=spread([lasts]),
            notes=(
                f"to any of them p50 {spread([latencies(heard)]).p50:.0f} ms",
                f"events of {rig.settings.sse_coalesce_s * 1000:g} ms go out together",
                f"{missing} were missed, {sum(each.lost for each in heard)} streams were cut off",
            ),
            faults=missing,
        ),
    ]


async def _own(bench: Bench, clients: int) -> Figure:
    async with bench.rig(nats_sync="default") as rig:
        await rig.start("projector", "api")
        addresses = await running(rig, clients)
        await asyncio.sleep(SETTLE_S)
        listeners = await listen(
            rig, rig.url, [f"/api/v1/tasks/{each.task_id}/events" for each in addresses]
        )
        await asyncio.sleep(SETTLE_S)
        runs: list[Samples] = []
        sent = lost = 0
        for _ in range(bench.runs):
            sent += await _pace(rig, addresses)
            await asyncio.sleep(SETTLE_S)
            heard = await heard_by(listeners)
            runs.append(latencies(heard))
            lost += sum(each.lost for each in heard)
    missing = sent - sum(map(len, runs))
    return Figure(
        name="events of one's own task",
        what=f"from its sending to its client, {clients:,} clients, {EVENTS_A_SECOND} events/s",
        floor_what="",
        unit=MILLISECONDS,
        ours=spread(runs),
        notes=(f"{missing} of {sent} were missed, {lost} streams were cut off",),
        faults=abs(missing),
    )


async def running(rig: Rig, count: int) -> list[Address]:
    """Write tasks that have just been started into the log."""
    tasklog = TaskLog(rig.bus, "taskfold/benchmark", clock.now, clock.new_event_id)
    made = intake.submission(
        _BODY, now=clock.now(), seed=1, limits=_LIMITS, tenant="default", fingerprint="x"
    )
    started = TaskStarted(attempt=1, backend=BackendId("image-1"), dispatcher=DISPATCHER)

    async def one(_: int) -> Address:
        address = Address(_LANE, clock.new_task_id())
        last = await tasklog.append(address, TaskSubmitted(submission=made), expected=0, patience_s=None)
        await tasklog.append(address, started, expected=last, patience_s=None)
        return address

    addresses: list[Address] = []
    while len(addresses) < count:
        addresses += await asyncio.gather(*map(one, range(min(32, count - len(addresses)))))
    return addresses


async def _pace(rig: Rig, addresses: Sequence[Address]) -> int:
    """Send events of one task after the other at a steady rate; gives how many."""
    count = round(EVENTS_A_SECOND * LASTS_S)
    due = time.perf_counter()
    for address in itertools.islice(itertools.cycle(addresses), count):
        due += 1 / EVENTS_A_SECOND
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await send(rig, address, address.subject(TaskAttached))
    return count


async def send(rig: Rig, address: Address, subject: str) -> None:
    """Store an event without a guard and without awaiting that it is stored."""
    event = TaskAttached(attempt=1, dispatcher=DISPATCHER, remote_id=stamp())
    headers = envelope.attributes(
        event,
        task_id=address.task_id,
        event_id=clock.new_event_id(),
        source="taskfold/benchmark",
        at=clock.now(),
    )
    await rig.bus.send(subject, events.encode(event), headers)


async def listen(rig: Rig, url: str, paths: Sequence[str], processes: int = PROCESSES) -> list[Process]:
    """Open a stream of each path, in some processes."""
    listeners = []
    for number in range(processes):
        file = rig.settings.data_path / f"listeners-{clock.new_name()[:8]}"
        file.write_text("\n".join(paths[number::processes]))
        listeners.append(await rig.companion("benchmarks.listeners", url, str(file)))
    for each in listeners:
        assert await rig.said(each) == "listens"
    return listeners


async def heard_by(listeners: Sequence[Process]) -> list[Heard]:
    """Ask each process what its clients have heard since they were asked last."""
    heard = []
    for each in listeners:
        each.send_signal(signal.SIGUSR1)
        assert each.stdout is not None
        name = (await each.stdout.readline()).decode().strip()
        heard.append(msgspec.json.decode(Path(name).read_bytes(), type=Heard))  # noqa: ASYNC240 - it is small
    return heard


def _lasts(heard: Sequence[Heard], clients: int, sent: int) -> tuple[Samples, int]:
    """Give how long each event took to the last client, and how often one was missed."""
    keys = {key for each in heard for key in each.lasts}
    lasts = [max(each.lasts[key][1] for each in heard if key in each.lasts) for key in keys]
    return lasts, abs(clients * sent - sum(count for each in heard for count, _ in each.lasts.values()))


def latencies(heard: Sequence[Heard]) -> Samples:
    """Give how long each event took to each client, in milliseconds."""
    return [latency for each in heard for latency in each.latencies_ms]


def _weight(rig: Rig) -> float:
    """Give the resident memory of the api in MB."""
    return next(seen.now for seen in rig.memory() if seen.process == "api")
