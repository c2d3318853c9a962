"""An instance that announces itself for as long as this process runs.

The one rule: it never leaves without having said so, unless it is killed; then its silence says it.
"""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Final

import click

from schemas.errors import Code
from services.cli.client import Api, Json, connected
from services.cli.failures import AwayError, EndError
from services.cli.operating import BACKENDS, backend_path, drained, told
from services.cli.running import say
from services.process import at_most

_RENEWALS: Final = 3
_RETRY_S: Final = 2.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


async def announce(url: str, body: Json, *, as_json: bool) -> None:
    """Announce until a signal; then drain and leave. A second signal ends at once."""
    stop = asyncio.Event()
    with _until_signal(stop):
        async with connected(url, say) as api:
            if await _stay(api, body, stop, as_json=as_json):
                await _leave(api, body, as_json=as_json)


async def _stay(api: Api, body: Json, stop: asyncio.Event, *, as_json: bool) -> bool:
    """Renew until ``stop``, also while the api is away; False where it never came to be known."""
    every_s = body["ttl_s"] / _RENEWALS
    wanted, away = None, False
    while not stop.is_set():
        pause_s = every_s
        try:
            async with asyncio.timeout(every_s):
                content = await api.post(BACKENDS, body)
            backend = api.decoded(content)
            if away:
                say(f"{body['name']} is announced again")
            if backend["wanted"] != wanted:
                told(api, content, as_json=as_json)
            wanted, away = backend["wanted"], False
        except (AwayError, TimeoutError) as error:
            if not away:
                say(f"{str(error) or 'no answer in time'}; trying again until it is there")
            away, pause_s = True, min(every_s, _RETRY_S)
        async with at_most(pause_s):
            await stop.wait()
    return wanted is not None


async def _leave(api: Api, body: Json, *, as_json: bool) -> None:
    """Drain and remove it; what it runs is waited for, and until then it goes on saying that it lives."""
    path = backend_path(body["name"])
    say(f"{body['name']} is drained and then removed; once more ends at once")

    async def look() -> bytes:
        content = await api.post(BACKENDS, body)
        if api.decoded(content)["wanted"] == "on":
            content = await api.patch(path, {"wanted": "draining"})
        return content

    while True:
        await drained(api, look)
        try:
            content = await api.delete(path)
        except AwayError:
            continue
        except EndError as error:
            if error.code != Code.BACKEND_IN_USE:
                raise
            continue
        click.echo(content if as_json else f"{body['name']} is removed")
        return


@contextlib.contextmanager
def _until_signal(stop: asyncio.Event) -> Iterator[None]:
    """Set ``stop`` on the first signal; the next one does what it always does."""
    loop = asyncio.get_running_loop()

    def heard() -> None:
        stop.set()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, heard)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
