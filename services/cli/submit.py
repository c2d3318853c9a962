"""Submissions: from what was typed to a task, and with ``--wait`` to its result.

The one rule: standard output has the one thing asked for (the id, the text, the bytes); the rest is told on
standard error.
"""

import sys
from pathlib import Path
from typing import Final

import click
import msgspec
from msgspec import Struct

from services.cli import results, show, watch
from services.cli.client import API, Api, Json, Upload, connected, task_path
from services.cli.failures import EndError, Exit
from services.cli.running import say

STDIN: Final = "-"


class Wanted(Struct, frozen=True, kw_only=True):
    """How a submission is to end, whatever its kind."""

    url: str
    as_json: bool
    wait: bool
    output: str | None
    key: str | None

    @property
    def waits(self) -> bool:
        return self.wait or self.output is not None


def taken(flags: Json) -> Wanted:
    """Take out of what was typed that which is not of the request."""
    return Wanted(**{name: flags.pop(name) for name in Wanted.__struct_fields__})


def given(flags: Json) -> Json:
    """Leave out what was not typed, so that the api's defaults hold."""
    return {name: value for name, value in flags.items() if value not in (None, ())}


def check(wanted: Wanted, count: int = 1) -> None:
    if wanted.output is not None:
        results.check(wanted.output, count, as_json=wanted.as_json)


async def image(prompt: str, flags: Json, wanted: Wanted) -> Exit:
    """Ask for a picture."""
    check(wanted, flags.get("n") or 1)
    body = {"prompt": _typed() if prompt == STDIN else prompt, **given(flags)}
    async with connected(wanted.url, say) as api:
        return await ended(api, await api.post(f"{API}/image/async", body, headers(wanted)), wanted)


async def speech(file: str, flags: Json, wanted: Wanted) -> Exit:
    """Ask for a transcription."""
    check(wanted)
    form = Upload(Path(file).name, _recording(file), fields(flags, wanted.output))
    async with connected(wanted.url, say) as api:
        return await ended(api, await api.upload(f"{API}/speech/async", form, headers(wanted)), wanted)


def fields(flags: Json, output: str | None) -> dict[str, str]:
    """Spell members as a form has them; the file's suffix says the format where nothing else does."""
    members = given(flags)
    form = results.FORMATS.get(Path(output or "").suffix.lower())
    if form and "response_format" not in members:
        members["response_format"] = form
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in members.items()
    }


def _typed() -> str:
    try:
        return sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError:
        raise EndError(Exit.USAGE, "the prompt on standard input is not UTF-8 text") from None


def _recording(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise EndError(Exit.USAGE, f"cannot read {file}: {error.strerror}") from None


def headers(wanted: Wanted) -> dict[str, str]:
    """Give the headers of a submission."""
    return {} if wanted.key is None else {"idempotency-key": wanted.key}


async def ended(api: Api, answer: bytes, wanted: Wanted) -> Exit:
    """Print what was accepted, or wait for its end and print what came of it."""
    accepted = api.decoded(answer)
    task_id: str = accepted["task_id"]
    if not wanted.waits:
        click.echo(answer if wanted.as_json else task_id)
        return Exit.DONE
    say(f"task {task_id} is accepted")
    await watch.wait(api, task_id)
    content = await api.get(task_path(task_id))
    document = api.decoded(content)
    if document["status"] == "DONE" and wanted.output is not None:
        for name in await results.fetch(api, document, wanted.output):
            say(f"wrote {name}")
    if wanted.as_json:
        click.echo(content)
    if document["status"] != "DONE":
        say(show.outcome(document))
        return Exit.TASK
    if not wanted.as_json and wanted.output is None:
        _tell(document, api.url)
    return Exit.DONE


def _tell(document: Json, url: str) -> None:
    """Print a transcription's text; a picture's address, one a line."""
    if document["kind"] == "speech" and document["text"] is not None:
        click.echo(document["text"])
        return
    for artifact in document["artifacts"]:
        click.echo(f"{url}{artifact['url']}")
