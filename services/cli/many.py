"""Cancelling tasks, erasing them and making them again, one by one or all that a filter means.

The one rule: an action on many is asked about before and counted after; what an api does in several calls
is one command here.
"""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import click
import msgspec

from schemas.filters import UNFINISHED
from schemas.intake import Common
from schemas.task import Status
from services.cli import submit
from services.cli.client import API, Api, Json, connected, task_path
from services.cli.failures import EndError, Exit
from services.cli.running import say
from services.cli.submit import Wanted

_COMMON: Final = frozenset(Common.__struct_fields__)
_MOST: Final = 200
"""How many are counted before the question."""


def changes(members: Sequence[str], request: Json | None = None) -> Json:
    """Read ``NAME=VALUE`` and give the body of a replay; what is no JSON is text."""
    found: Json = dict(request or {})
    for member in members:
        name, equals, text = member.partition("=")
        if not equals:
            raise EndError(Exit.USAGE, f"--set is NAME=VALUE, as --set steps=8; not {member!r}")
        try:
            found[name] = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError):
            found[name] = text
    common = {name: value for name, value in found.items() if name in _COMMON}
    inner = {name: value for name, value in found.items() if name not in _COMMON}
    return {**common, "request": inner} if inner else common


async def cancel_each(url: str, ids: Sequence[str], reason: str | None, *, as_json: bool) -> None:
    """Cancel tasks by their ids, and say of each what came of it."""
    body: Json = {} if reason is None else {"reason": reason}
    async with connected(url, say) as api:
        for task_id in ids:
            content = await api.post(task_path(task_id, "/cancel"), body)
            click.echo(content if as_json else f"{task_id} {api.decoded(content)['outcome']}")


async def cancel(
    url: str, chosen: Mapping[str, str], reason: str | None, *, yes: bool, as_json: bool
) -> None:
    """Cancel all that a filter means."""
    body: Json = {**_filter(chosen), **({} if reason is None else {"reason": reason})}
    async with connected(url, say) as api:
        await _agreed(api, "cancel", chosen, ",".join(UNFINISHED), yes=yes)
        cancelled = 0
        async for content, answer in _calls(api, f"{API}/tasks/cancel", body):
            cancelled += answer["cancelled"]
            if as_json:
                click.echo(content)
            for task_id in () if as_json else answer["task_ids"]:
                click.echo(f"{task_id} CANCELLED")
    say(f"{_count(cancelled)} cancelled")


async def erase_each(url: str, ids: Sequence[str], *, yes: bool, as_json: bool) -> None:
    """Erase tasks by their ids, and say of each what came of it."""
    _confirmed(f"erase {_count(len(ids))} for good", yes=yes)
    async with connected(url, say) as api:
        for task_id in ids:
            content = await api.delete(task_path(task_id, "/content"))
            answer = api.decoded(content)
            click.echo(content if as_json else f"{task_id} {answer['outcome']}")
            if answer["kept"]:
                say(f"the recording {answer['kept']} stays: a task that has not ended needs it")


async def replay(task_id: str, members: Sequence[str], flags: Json, wanted: Wanted) -> Exit:
    """Submit a task again."""
    submit.check(wanted)
    changed = changes(members, flags)
    async with connected(wanted.url, say) as api:
        answer = await api.post(task_path(task_id, "/replay"), changed, submit.headers(wanted))
        return await submit.ended(api, answer, wanted)


async def replay_each(url: str, ids: Sequence[str], members: Sequence[str], *, as_json: bool) -> None:
    """Submit tasks again by their ids, and print the new ones."""
    changed = changes(members)
    async with connected(url, say) as api:
        for task_id in ids:
            content = await api.post(task_path(task_id, "/replay"), changed)
            click.echo(content if as_json else api.decoded(content)["task_id"])


async def redrive(
    url: str, chosen: Mapping[str, str], members: Sequence[str], *, yes: bool, as_json: bool
) -> Exit:
    """Submit again all that a filter means, as far as the queue has room."""
    body: Json = {**_filter(chosen), **({"change": changes(members)} if members else {})}
    made = refused = 0
    async with connected(url, say) as api:
        await _agreed(api, "redrive", chosen, Status.FAILED, yes=yes)
        async for content, answer in _calls(api, f"{API}/tasks/redrive", body):
            made += answer["made"]
            refused += answer["refused"]
            if as_json:
                click.echo(content)
            for one in () if as_json else answer["tasks"]:
                click.echo(one["task_id"])
            for one in answer["refusals"]:
                say(f"{one['origin']} cannot be redriven: {one['detail']} ({one['code']})")
            if answer["stopped"]:
                say(
                    f"{_count(made)} redriven; there is no more room ({answer['stopped']}): try again later"
                )
                return Exit.REFUSED
    say(f"{_count(made)} redriven")
    return Exit.REFUSED if refused else Exit.DONE


async def _calls(api: Api, path: str, body: Json) -> AsyncIterator[tuple[bytes, Json]]:
    """Send it for as long as there is more; a call that reached nothing is the last."""
    while True:
        content = await api.post(path, body)
        answer = api.decoded(content)
        yield content, answer
        if not answer["more"] or not (answer.get("made") or answer.get("cancelled")):
            return


async def _agreed(api: Api, what: str, chosen: Mapping[str, str], statuses: str, *, yes: bool) -> None:
    """Ask a person at a terminal; a script has said what it wants."""
    if yes or not sys.stdin.isatty():
        return
    query = {"status": statuses, **chosen, "limit": str(_MOST)}
    found = await api.json(f"{API}/tasks", query)
    count = f"{_MOST} tasks or more" if found["next"] else _count(len(found["tasks"]))
    if not found["tasks"]:
        raise EndError(Exit.DONE, "no tasks match")
    _confirmed(f"{what} {count}", yes=yes)


def _confirmed(what: str, *, yes: bool) -> None:
    """Go on where a person at a terminal agrees; a script has said what it wants."""
    if not yes and sys.stdin.isatty() and not click.confirm(f"{what}?", err=True):
        raise EndError(Exit.DONE, "nothing was done")


def _filter(chosen: Mapping[str, str]) -> Json:
    return dict(chosen) or {"all": True}


def _count(number: int) -> str:
    return f"{number} task{'' if number == 1 else 's'}"
