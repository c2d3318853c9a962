"""Changing backends and holding queues from the command line.

The one rule: one command is one change; what was decided meanwhile by somebody else is shown, not undone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

import click

from services.cli import show
from services.cli.client import API, Api, Json, connected
from services.cli.failures import AwayError, EndError, Exit
from services.cli.running import say

BACKENDS: Final = f"{API}/backends"
_LOOK_S: Final = 0.5
_SETTLED_S: Final = 1.5
"""By then every dispatcher has heard that nothing more is to be started there."""


def backend_path(name: str) -> str:
    return f"{BACKENDS}/{quote(name, safe='')}"


async def add(url: str, body: Json, *, as_json: bool) -> None:
    """Add a backend."""
    async with connected(url, say) as api:
        told(api, await api.post(BACKENDS, body), as_json=as_json)


async def change(url: str, name: str, body: Json, *, as_json: bool) -> None:
    """Change a backend; labels are put to those that it has, and one without a value is taken away."""
    async with connected(url, say) as api:
        if labels := body.get("labels"):
            both = {**(await api.json(backend_path(name)))["labels"], **labels}
            body = {**body, "labels": {key: value for key, value in both.items() if value}}
        told(api, await api.patch(backend_path(name), body), as_json=as_json)


async def drain(url: str, name: str, *, wait: bool, as_json: bool) -> None:
    """Drain a backend, and wait until nothing runs there."""
    path = backend_path(name)
    async with connected(url, say) as api:
        content = await api.patch(path, {"wanted": "draining"})
        if not wait or not as_json:
            told(api, content, as_json=as_json)
        if wait:
            content = await drained(api, lambda: api.get(path))
            if as_json:
                click.echo(content)
            else:
                click.echo(f"{name} runs nothing any more")


async def drained(api: Api, look: Callable[[], Awaitable[bytes]]) -> bytes:
    """Look until a backend that drains runs nothing, also while the api is away, and give the last look."""
    loop = asyncio.get_running_loop()
    begun_at, away = loop.time(), False
    while True:
        try:
            content = await look()
            backend = api.decoded(content)
            if backend["wanted"] == "on":
                raise EndError(Exit.REFUSED, f"{backend['name']} was switched on again")
            if not backend["running"] and loop.time() - begun_at >= _SETTLED_S:
                return content
            away = False
        except AwayError as error:
            if not away:
                say(f"{error}; trying again until it is there")
            away = True
        await asyncio.sleep(_LOOK_S)


async def remove(url: str, name: str, *, as_json: bool) -> None:
    """Remove a backend."""
    async with connected(url, say) as api:
        content = await api.delete(backend_path(name))
        click.echo(content if as_json else f"{name} is removed")


async def hold(url: str, kind: str, verb: str, body: Json, *, as_json: bool) -> None:
    """Pause or resume, and tell which pauses of the kind there are."""
    async with connected(url, say) as api:
        content = await api.post(f"{API}/queues/{quote(kind, safe='')}/{verb}", body)
        pauses = api.decoded(content)["pauses"]
    if as_json:
        click.echo(content)
    else:
        click.echo("\n".join(show.pause_line(kind, one) for one in pauses) or f"{kind} is not paused")


def told(api: Api, content: bytes, *, as_json: bool) -> Json:
    """Tell how a backend is, and give it."""
    backend = api.decoded(content)
    click.echo(content if as_json else show.backend_line(backend))
    return backend
