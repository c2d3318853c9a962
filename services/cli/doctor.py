"""``doctor``: looks at everything Taskfold stands on.

The one rule: it changes nothing, waits for nothing longer than a moment, and one thing that is away
does not keep the others from being looked at.
"""

import asyncio
import contextlib
import email.utils
import os
import shutil
import socket
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import click
import msgspec
from msgspec import Struct

from services import clock, telemetry
from services.bus.connection import Bus
from services.cli import findings
from services.cli.client import API
from services.cli.failures import Exit
from services.cli.findings import Finding
from services.settings import Settings, masked, unread

_PATIENCE_S: Final = 3.0
_NATS_PORT: Final = 4222
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


class _Answer(Struct, frozen=True):
    """``status`` 0: there was none."""

    status: int = 0
    body: bytes = b""
    date: str = ""

    def json(self) -> dict[str, Any]:  # Any: JSON of the api
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return {}


async def examine(settings: Settings, url: str | None, *, as_json: bool) -> Exit:
    """Print a line for each thing looked at; Exit.TASK when something fails."""
    telemetry.configure("doctor", "error", "text")  # what the connection to NATS would tell
    found: list[Finding] = []
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        async for finding in _all(settings, http, url):
            found.append(finding)
            if not as_json:
                click.echo(findings.line(finding))
    if as_json:
        click.echo(msgspec.json.encode({"ok": not findings.failed(found), "findings": found}))
    return Exit.TASK if findings.failed(found) else Exit.DONE


async def _all(
    settings: Settings, http: aiohttp.ClientSession, url: str | None
) -> AsyncGenerator[Finding, None]:
    yield findings.python(sys.version_info[:3])
    if url is None:  # else the api is somewhere else
        yield await _api_port(settings, http)
    if settings.nats_url is None:
        yield await _nats_port(settings)
    yield _disk(settings)
    async for finding in _nats(settings):
        yield finding
    address = (url or _own(settings)).rstrip("/")
    ready = await _ask(http, f"{address}/readyz")
    yield findings.api(address, ready.status, ready.json().get("reasons", []), named=url is not None)
    if there := email.utils.parsedate_to_datetime(ready.date) if ready.date else None:
        yield findings.clock(clock.now(), there)
    async for finding in _backends(settings, http, address):
        yield finding


def _own(settings: Settings) -> str:
    host = _ANYWHERE.get(settings.api_host, settings.api_host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.api_port}"


async def _api_port(settings: Settings, http: aiohttp.ClientSession) -> Finding:
    alive = await _ask(http, f"{_own(settings)}/healthz") if settings.api_port else _Answer()
    holder = "our api" if alive.json().get("status") == "ok" else None
    return findings.port(
        "api_port", settings.api_port, holder, _taken(settings.api_host, settings.api_port)
    )


async def _nats_port(settings: Settings) -> Finding:
    greeting = await _greeting(settings.bus_url)
    holder = f"nats-server {greeting['version']}" if greeting else None
    return findings.port("nats_port", settings.nats_port, holder, _taken("127.0.0.1", settings.nats_port))


def _taken(host: str, port: int) -> str | None:
    """Say why a server could not listen there; None when it could."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _disk(settings: Settings) -> Finding:
    place = settings.data_path
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    used = _used(place / "nats")
    wanted = settings.nats_max_file_gib if settings.nats_url is None else 0
    return findings.disk(
        str(place),
        shutil.disk_usage(there).free,
        max(0.0, wanted - used / findings.GIB),
        writable=there.is_dir() and os.access(there, os.W_OK),
    )


def _used(folder: Path) -> int:
    """Give what a folder holds already; what goes away meanwhile is not counted."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


async def _nats(settings: Settings) -> AsyncGenerator[Finding, None]:
    url = masked(settings.bus_url)
    greeting = await _greeting(settings.bus_url)
    if greeting is None:
        yield findings.nats_away(url, configured=settings.nats_url is not None)
        return
    yield findings.nats_version(url, greeting["version"])
    bus = Bus(settings.bus_url, "doctor")
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await bus.connect()
            info = await bus.api("INFO", timeout_s=_PATIENCE_S)
    except Exception as error:  # noqa: BLE001 - the client raises errors of its own, and all mean the same here
        reason = str(error) or "no answer in time"
        advice = "see the server's log: it needs JetStream, and an account that may use it"
        yield Finding(findings.Level.FAIL, "jetstream", masked(reason), advice)
        return
    finally:
        await bus.close()
    yield findings.jetstream(info, settings.artifact_gib)


async def _greeting(urls: str) -> dict[str, Any] | None:
    """Read the INFO line with which a server greets; None when none of them does."""  # Any: JSON of it
    for url in urls.split(","):
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_connection(
                    parts.hostname or "127.0.0.1", parts.port or _NATS_PORT
                )
                try:
                    verb, _, body = (await reader.readline()).partition(b" ")
                finally:
                    writer.close()
            if verb == b"INFO":
                return msgspec.json.decode(body, type=dict[str, Any])
    return None


async def _backends(
    settings: Settings, http: aiohttp.ClientSession, address: str
) -> AsyncGenerator[Finding, None]:
    """Ask the GPUs of the settings, and those that the api knows beside them."""
    known = {str(backend.name): (backend.url, "on") for backend in settings.backends(unread)}
    for backend in (await _ask(http, f"{address}{API}/backends")).json().get("backends", []):
        known[backend["name"]] = (backend["url"], backend["wanted"])
    known = {name: (url, wanted) for name, (url, wanted) in known.items() if wanted != "gone"}
    if not known:
        yield findings.no_backends(settings.simulated_gpus)
    answers = await asyncio.gather(*(_ask(http, url) for url, _ in known.values()))
    for (name, (url, wanted)), answer in zip(known.items(), answers, strict=True):
        yield findings.backend(name, masked(url), wanted, answer.status)


async def _ask(http: aiohttp.ClientSession, url: str) -> _Answer:
    try:
        async with http.get(url) as answer:
            return _Answer(answer.status, await answer.read(), answer.headers.get("date", ""))
    except (aiohttp.ClientError, TimeoutError, OSError):
        return _Answer()
