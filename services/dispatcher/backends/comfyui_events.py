"""What a ComfyUI says by websocket while it works on a prompt: for progress, never for truth.

The one rule: nothing that happens to the socket is an error. Lost messages are not said again, so without
it there is less progress and the same result.
"""

import asyncio
from typing import Any, Final

import aiohttp
from msgspec import Struct

from services.dispatcher.backends.classify import decoded
from services.dispatcher.backends.comfyui_wire import socket_path
from services.dispatcher.backends.http import Endpoint

CONNECT_TIMEOUT_S: Final = 1.0
RECONNECT_S: Final = 5.0

_ENDS: Final = frozenset({"execution_success", "execution_error", "execution_interrupted"})


class Step(Struct, frozen=True):
    """A node of the prompt has taken ``step`` of its ``steps``."""

    prompt_id: str
    step: int
    steps: int


class Ended(Struct, frozen=True):
    """The prompt has ended, or is about to."""

    prompt_id: str


class _Event(Struct, frozen=True):
    type: str
    data: dict[str, Any]  # Any: differs with the type


def heard(text: str) -> Step | Ended | None:
    """Read a message; None for what says neither."""
    event = decoded(text.encode(errors="replace"), _Event)
    if event is None or not isinstance(prompt_id := event.data.get("prompt_id"), str):
        return None
    match event.type, event.data:
        case "progress", data:
            return _step(prompt_id, data)
        case "progress_state", {"nodes": {**nodes}}:
            steps = (_step(prompt_id, node) for node in nodes.values() if _works(node))
            return next(filter(None, steps), None)
        case "executing", {"node": None}:
            return Ended(prompt_id)
        case name, _:
            return Ended(prompt_id) if name in _ENDS else None


def _works(node: object) -> bool:
    return isinstance(node, dict) and node.get("state") == "running" and node.get("max") != 1


def _step(prompt_id: str, said: object) -> Step | None:
    match said:
        case {"value": int() | float() as value, "max": int() | float() as most} if 0 <= value <= most != 0:
            return Step(prompt_id, int(value), int(most))
        case _:
            return None


class Ears:
    """One socket under one ``client_id``: a ComfyUI tells of a prompt whoever has the id it came with."""

    def __init__(self, endpoint: Endpoint, client_id: str) -> None:
        self._endpoint = endpoint
        self._path = socket_path(client_id)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._next_try_at = 0.0

    async def open(self, now: float) -> None:
        """Connect, unless that is done or was tried a moment ago."""
        if self._socket is None and now >= self._next_try_at:
            self._next_try_at = now + RECONNECT_S
            self._socket = await self._endpoint.websocket(self._path, CONNECT_TIMEOUT_S)

    async def hear(self) -> Step | Ended:
        """Wait for the next message that says something, for ever where no socket is open."""
        while self._socket is not None:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                if (said := heard(message.data)) is not None:
                    return said
            elif message.type is not aiohttp.WSMsgType.BINARY:  # which are previews
                await self.close()
        silence: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        return await silence

    async def close(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()
