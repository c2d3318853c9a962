"""``backup`` and ``restore``: every stream from a server into a folder, and from there into another server.

The one rule: all or nothing. A backup that broke off is no folder, a restore that did leaves no stream.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import click
import msgspec
from msgspec import Struct

from schemas import subjects
from schemas.errors import StorageFullError, TaskfoldError, UnavailableError
from services import clock
from services.bus import snapshots
from services.bus.connection import ApiError, Bus
from services.bus.snapshots import BrokenOffError, Description
from services.bus.streams import STREAM_NOT_FOUND
from services.cli import saved
from services.cli.failures import AwayError, EndError, Exit
from services.cli.reaching import reach
from services.cli.running import say
from services.settings import Settings


class Moved(Struct, frozen=True):
    """A stream that was written or restored: its messages, and their bytes as they are stored."""

    name: str
    messages: int
    bytes: int


async def backup(settings: Settings, folder: Path, *, as_json: bool) -> None:
    """Write every stream to a folder, which is there once all of them are."""
    moved: list[Moved] = []
    with saved.written(folder) as part:
        async with _connected(settings) as bus:
            for name in subjects.SAVED:
                async with snapshots.snapshot(bus, name) as snapshot:
                    moved.append(_told("saving", snapshot.description))
                    with saved.Writing(part / name) as writing:
                        async for chunk in snapshot.chunks:
                            writing.add(chunk)
                        writing.end(snapshot.description)
    _tell(folder, moved, as_json=as_json)


async def restore(settings: Settings, folder: Path, *, as_json: bool) -> None:
    """Make every stream of a backup on a server that has none of them."""
    wanted = saved.read(folder)
    if others := saved.left_out(folder):
        say(f"left alone, since they are not Taskfold's: {', '.join(others)}")
    moved: list[Moved] = []
    async with _connected(settings) as bus:
        there = await snapshots.stream_names(bus)
        if taken := [name for name in subjects.SAVED if name in there]:
            raise EndError(
                Exit.REFUSED,
                f"the server has {', '.join(taken)} already; restore into an empty one, or remove them "
                "with `nats stream rm` if nothing in them is needed",
            )
        async with _undone(bus) as begun:
            # The log last: whoever waits for it, or is woken by it, finds everything else there.
            for description in sorted(wanted, key=lambda one: one.name == subjects.TASKS):
                moved.append(_told("restoring", description))
                begun.append(description.name)
                await _restore(bus, folder, description)
    _tell(folder, moved, as_json=as_json)
    say("restored; run `taskfold init` with the GPUs' urls, then start the rest")


async def _restore(bus: Bus, folder: Path, wanted: Description) -> None:
    found = await snapshots.restore(bus, wanted, saved.chunks(folder / wanted.name))
    if lacking := snapshots.difference(wanted, found, clock.now()):
        raise EndError(Exit.REFUSED, f"{wanted.name} was not restored as it was: it {lacking}")


@contextlib.asynccontextmanager
async def _undone(bus: Bus) -> AsyncIterator[list[str]]:
    """Delete the streams that were begun when not all of them could be restored."""
    begun: list[str] = []
    try:
        yield begun
    except BaseException:
        left = [name for name in reversed(begun) if not await _deleted(bus, name)]
        if left:
            say(f"there may be a part of {', '.join(left)}; remove it with `nats stream rm`")
        raise


async def _deleted(bus: Bus, name: str) -> bool:
    try:
        await snapshots.delete_stream(bus, name)
    except TaskfoldError:
        return False
    return True


@contextlib.asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Bus]:
    """Give a connection, and turn what NATS says into how a command ends."""
    bus = await reach(settings, "backup")
    try:
        yield bus
    except (ApiError, StorageFullError, BrokenOffError, UnavailableError) as error:
        _end(error)
    finally:
        await bus.close()


def _end(error: TaskfoldError) -> NoReturn:
    if isinstance(error, UnavailableError) and not isinstance(error, StorageFullError):
        raise AwayError(f"{error}; try again") from None
    if isinstance(error, ApiError) and error.code == STREAM_NOT_FOUND:
        raise EndError(
            Exit.REFUSED, "the server lacks a stream of Taskfold's; run `taskfold init` first"
        ) from None
    raise EndError(Exit.REFUSED, f"NATS refused: {error}") from None


def _told(doing: str, description: Description) -> Moved:
    """Say which stream is being moved."""
    held = description.held()
    say(f"{doing} {description.name}: {held.messages} messages, {held.bytes / 1e6:.1f} MB")
    return Moved(description.name, held.messages, held.bytes)


def _tell(folder: Path, moved: list[Moved], *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"folder": str(folder), "streams": moved}))
        return
    messages, size = sum(one.messages for one in moved), sum(one.bytes for one in moved)
    click.echo(f"{folder}: {len(moved)} streams, {messages} messages, {size / 1e6:.1f} MB")
