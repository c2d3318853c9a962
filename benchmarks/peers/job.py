"""The job: have a picture drawn by a GPU that is free, and hand it back. Runs in the worker of a peer.

The one rule: a GPU is asked for one picture at a time, as far as one worker can see to it; the peers know
nothing of GPUs. Every peer's worker is told where its broker and the GPUs are by the same two variables.
"""

import asyncio
import functools
import http.client
import json
import os
import queue
from typing import Final
from urllib.parse import urlsplit

import aiohttp

BROKER: Final = "PEERS_BROKER"
GPUS: Final = "PEERS_GPUS"
"""Urls of the GPUs, with spaces between them."""

SIDE: Final = 64
PATH: Final = "/v1/images/generations"


def broker() -> str:
    return os.environ[BROKER]


def gpus() -> list[str]:
    return os.environ[GPUS].split()


def slots() -> int:
    """Give how many jobs a worker runs at once: one for each GPU."""
    return len(gpus())


async def draw(prompt: str) -> str:
    """Give a picture in base64."""
    http, free = _free()
    url = await free.get()
    try:
        async with http.post(f"{url}{PATH}", json=_wanted(prompt)) as answer:
            return _picture(answer.status, await answer.read())
    finally:
        free.put_nowait(url)


@functools.cache
def _free() -> tuple[aiohttp.ClientSession, asyncio.Queue[str]]:
    """Give the GPUs that are free; first called on the worker's loop."""
    free = asyncio.Queue[str]()
    for url in gpus():
        free.put_nowait(url)
    return aiohttp.ClientSession(), free


def draw_in_thread(prompt: str) -> str:
    """Do the same in a thread of a worker that has no loop."""
    free = _free_connections()
    connection = free.get()
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", PATH, json.dumps(_wanted(prompt)), headers)
        answer = connection.getresponse()
        return _picture(answer.status, answer.read())
    finally:
        free.put(connection)


@functools.cache
def _free_connections() -> queue.SimpleQueue[http.client.HTTPConnection]:
    free = queue.SimpleQueue[http.client.HTTPConnection]()
    for url in gpus():
        free.put(http.client.HTTPConnection(urlsplit(url).netloc))
    return free


def _wanted(prompt: str) -> dict[str, str | int]:
    return {"prompt": prompt, "size": f"{SIDE}x{SIDE}", "num_inference_steps": 4, "seed": 1}


def _picture(status: int, body: bytes) -> str:
    assert status == 200, body
    picture: str = json.loads(body)["data"][0]["b64_json"]
    return picture
