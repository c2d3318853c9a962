"""Many tasks submitted at once: from a file to a batch, and how the batch stands.

The one rule: what is right of a task is the api's to say, which names it by its place; here is told only
which line is no JSON.
"""

import sys
from pathlib import Path
from typing import Final
from urllib.parse import quote

import click
import msgspec

from services.cli import show
from services.cli.client import API, Api, connected
from services.cli.failures import EndError, Exit
from services.cli.running import say

STDIN: Final = "-"
_WAIT_S: Final = "30"


async def submit(url: str, file: str, key: str | None, *, wait: bool, as_json: bool) -> Exit:
    """Submit the tasks of a file, all or none."""
    body = {"tasks": tasks(_content(file))}
    headers = {} if key is None else {"idempotency-key": key}
    async with connected(url, say) as api:
        answer = await api.post(f"{API}/tasks/batch", body, headers)
        batch_id: str = api.decoded(answer)["batch_id"]
        if wait:
            say(f"batch {batch_id} is accepted")
            return await _shown(api, batch_id, wait=True, as_json=as_json)
    click.echo(answer if as_json else batch_id)
    return Exit.DONE


async def batch(url: str, batch_id: str, *, wait: bool, as_json: bool) -> Exit:
    """Show a batch, as it is or once all its tasks have ended."""
    async with connected(url, say) as api:
        return await _shown(api, batch_id, wait=wait, as_json=as_json)


async def _shown(api: Api, batch_id: str, *, wait: bool, as_json: bool) -> Exit:
    path = f"{API}/batches/{quote(batch_id, safe='')}"
    while True:
        content = await api.get(path, {"wait": _WAIT_S} if wait else None)
        document = api.decoded(content)
        if not wait or document["finished_at"] is not None:
            break
    click.echo(content if as_json else "\n".join(show.batch(document)))
    return Exit.TASK if wait and document["counts"]["DONE"] < document["size"] else Exit.DONE


def tasks(content: bytes) -> list[msgspec.Raw]:
    """Take a JSON array apart, or what is one JSON object a line."""
    if content.lstrip().startswith(b"["):
        try:
            return msgspec.json.decode(content, type=list[msgspec.Raw])
        except msgspec.DecodeError as error:
            raise EndError(Exit.USAGE, f"the file is no JSON array: {error}") from None
    found = list[msgspec.Raw]()
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                found.append(msgspec.json.decode(line, type=msgspec.Raw))
            except msgspec.DecodeError as error:
                raise EndError(Exit.USAGE, f"line {number} is no JSON: {error}") from None
    return found


def _content(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise EndError(Exit.USAGE, f"cannot read {file}: {error.strerror}") from None
