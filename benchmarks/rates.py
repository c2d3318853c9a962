"""What Taskfold adds to a request at several rates, and with several clients that wait for their answers.

The one rule: what is beyond saturation is told, as what was answered a second, and not left out.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import islice
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from benchmarks import status, submit
from benchmarks.client import connected
from benchmarks.measure import MILLISECONDS, Figure, Samples, spread
from benchmarks.pacing import SUSTAINED, OpenLoop, Server, ask, closed_loop
from benchmarks.rig import Bench

LASTS_S: Final = 5.0
SETTLE_S: Final = 0.3
"""Between the two, so that what one has left to be done does not fall upon the other."""
CLIENTS: Final = (1, 4, 16)
WARM_UP: Final = 400


class Question(Struct, frozen=True):
    """Something to ask, by whom it is answered, and at which rates."""

    name: str
    what: str
    floor_what: str
    both: Callable[[Bench], AbstractAsyncContextManager[tuple[Server, Server]]]
    rates: tuple[int, ...]
    most: float


QUESTIONS: Final = (
    Question(
        "submit",
        f"POST {submit.PATH}",
        submit.FLOOR_WHAT,
        submit.both,
        (50, 100, 200, 400, 800),
        submit.MOST,
    ),
    Question(
        "status",
        f"GET {status.OURS}{{id}}",
        status.FLOOR_WHAT,
        status.both,
        (100, 200, 500, 1000, 2000),
        status.MOST,
    ),
)


async def measure(bench: Bench) -> list[Figure]:
    return [figure for question in QUESTIONS async for figure in _answered(bench, question)]


async def _answered(bench: Bench, question: Question) -> AsyncIterator[Figure]:
    async with question.both(bench) as sides:
        for server in sides:
            async with connected(server.url) as connection:
                await ask(connection, server, WARM_UP)
        for rate in question.rates:
            yield await _at_rate(bench, question, sides, rate)
        for clients in CLIENTS:
            yield await _with_clients(bench, question, sides, clients)


async def _at_rate(bench: Bench, question: Question, sides: tuple[Server, Server], rate: int) -> Figure:
    count = max(1, round(rate * LASTS_S * bench.size))
    floors: list[OpenLoop] = []
    ours: list[OpenLoop] = []

    async def take(server: Server, loops: list[OpenLoop]) -> Samples:
        await asyncio.sleep(SETTLE_S)
        loops.append(loop := OpenLoop(server.url, rate))
        await loop.run(islice(server.requests, count))
        return loop.samples

    floor_runs, our_runs = await bench.in_turns(
        lambda: take(sides[0], floors), lambda: take(sides[1], ours)
    )
    figure = Figure(
        name=f"{question.name}, {rate}/s",
        what=f"{question.what}, {rate} requests/s, from when each was due",
        floor_what=question.floor_what,
        unit=MILLISECONDS,
        ours=spread(our_runs),
        floor=spread(floor_runs),
        notes=(
            _told("answered", rate, sides[1], ours),
            _told("the floor answered", rate, sides[0], floors),
        ),
        series=f"{question.name} by rate",
        along="requests/s",
        at=rate,
    )
    return _judged(
        figure, question.most, kept_up=_sustained(rate, ours), comparable=_sustained(rate, floors)
    )


def _sustained(rate: float, loops: Sequence[OpenLoop]) -> bool:
    return all(loop.answered_a_second >= SUSTAINED * rate for loop in loops)


def _told(who: str, rate: float, server: Server, loops: Sequence[OpenLoop]) -> str:
    each = "; ".join(f"{loop.answered_a_second:.0f}/s" for loop in loops)
    beyond = "" if _sustained(rate, loops) else ": beyond saturation"
    refused = sum(loop.answers.total() - loop.answers[server.status] for loop in loops)
    return f"{who} {each}{beyond}" + (f"; {refused} were refused" if refused else "")


def _judged(figure: Figure, most: float, *, kept_up: bool, comparable: bool) -> Figure:
    """Say whether the target is met, at a rate that the floor can be held to."""
    if not comparable:
        return figure
    met = kept_up and (figure.ratio or 0) <= most
    return replace(figure, target=f"p50 at most {most:g} times its floor", ratio_target=most, met=met)


async def _with_clients(
    bench: Bench, question: Question, sides: tuple[Server, Server], clients: int
) -> Figure:
    lasts_s = LASTS_S * bench.size

    async def take(server: Server) -> Samples:
        await asyncio.sleep(SETTLE_S)
        return await closed_loop(server, clients, lasts_s)

    floor_runs, our_runs = await bench.in_turns(lambda: take(sides[0]), lambda: take(sides[1]))
    ours, floors = (
        "; ".join(f"{len(run) / lasts_s:.0f}/s" for run in runs) for runs in (our_runs, floor_runs)
    )
    return Figure(
        name=f"{question.name}, {clients} clients",
        what=f"{question.what}, {clients} clients, each one request after the other",
        floor_what=question.floor_what,
        unit=MILLISECONDS,
        ours=spread(our_runs),
        floor=spread(floor_runs),
        notes=(f"answered {ours}", f"the floor answered {floors}"),
        series=f"{question.name} by clients",
        along="clients",
        at=clients,
    )
