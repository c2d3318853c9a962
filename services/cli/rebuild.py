"""``rebuild``: every projector makes its read model anew from the log, and says whether it became the same.

The one rule: it only asks and listens; who leaves stops nothing.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import click
import msgspec

from schemas import rebuilds, subjects
from schemas.errors import UnavailableError
from schemas.rebuilds import ENDS, Phase, Rebuild
from services.bus.connection import Bus, Msg
from services.cli.failures import AwayError, EndError, Exit
from services.cli.reaching import PATIENCE_S, reach
from services.cli.running import say
from services.settings import Settings

_SILENCE_S: Final = 30.0
_SAYS: Final = {
    Phase.BUILDING: "building",
    Phase.CATCHING_UP: "catching up with the log",
    Phase.INDEXING: "indexing the prompts",
    Phase.COMPARING: "in place; comparing it with the one before",
}


async def rebuild(settings: Settings, *, as_json: bool) -> None:
    """Ask all projectors, and tell how far they are until all of them are done."""
    bus = await reach(settings, "rebuild")
    try:
        ended = await _heard(bus, tell=None if as_json else _tell)
    except UnavailableError as error:
        raise AwayError(f"{error}; try again") from None
    finally:
        await bus.close()
    if as_json:
        click.echo(msgspec.json.encode({"rebuilds": ended}))
    if failed := [one for one in ended if not _well(one)]:
        raise EndError(Exit.REFUSED, f"{failed[0].projector}: {failed[0].error or 'it is not the same'}")


async def _heard(bus: Bus, tell: Callable[[Rebuild], None] | None) -> list[Rebuild]:
    """Listen until all that answer are done; AwayError if none answers, or all fall silent."""
    found: dict[str, Rebuild] = {}
    news = asyncio.Event()

    def receive(message: Msg) -> None:
        if not message.data:
            return
        told = rebuilds.decode(message.data)
        before = found.get(told.projector)
        if before is None or before.phase not in ENDS:
            found[told.projector] = told
            if tell is not None:
                tell(told)
        news.set()

    inbox = bus.new_inbox()
    await bus.subscribe(inbox, receive)
    await bus.send(subjects.REBUILD, reply=inbox)
    while not found or any(one.phase not in ENDS for one in found.values()):
        news.clear()
        try:
            async with asyncio.timeout(_SILENCE_S if found else PATIENCE_S):
                await news.wait()
        except TimeoutError:
            raise AwayError(
                "the projectors have fallen silent" if found else "no projector answers; is one running?"
            ) from None
    return list(found.values())


def _well(one: Rebuild) -> bool:
    return one.phase is Phase.DONE and (one.before is None or one.equal)


def _tell(told: Rebuild) -> None:
    if told.phase is Phase.BUILDING:
        rate = f", {told.events / told.seconds:,.0f} a second" if told.seconds else ""
        say(f"{told.projector}: {told.events:,} of {told.of:,} events{rate}")
    elif told.phase is Phase.DONE:
        click.echo(_result(told))
    elif told.phase is not Phase.FAILED:
        say(f"{told.projector}: {_SAYS[told.phase]}")


def _result(told: Rebuild) -> str:
    made = f"{told.projector}: {told.events:,} events up to {told.sequence} in {told.seconds:.1f} s"
    if told.before is None:
        return f"{made}; there was none before"
    same = "equal" if told.equal else "NOT EQUAL"
    return f"{made}; before {told.before}, after {told.after}: {same}"
