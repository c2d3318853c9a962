"""What a ComfyUI says and shows by websocket while it works on a prompt: for progress, never for truth.

The one rule: nothing that happens to the socket is an error. Lost messages are not said again, so without
it there is less progress and the same result.
"""

import asyncio
import contextlib
from typing import Any, Final

import aiohttp
from msgspec import Struct

from services.dispatcher.backends.classify import decoded
from services.dispatcher.backends.comfyui_wire import socket_path
from services.dispatcher.backends.http import Endpoint

CONNECT_TIMEOUT_S: Final = 1.0
RECONNECT_S: Final = 5.0

_HELLO: Final = '{"type":"feature_flags","data":{"supports_preview_metadata":true}}'
"""Said first; a newer server then says of each preview which prompt it is of."""
_WORD: Final = 4
_PREVIEW: Final = 1
_PREVIEW_WITH_METADATA: Final = 4
_ENDS: Final = frozenset({"execution_success", "execution_error", "execution_interrupted"})


class Step(Struct, frozen=True):
    """A node of the prompt has taken ``step`` of its ``steps``."""

    prompt_id: str
    step: int
    steps: int


class Preview(Struct, frozen=True):
    """How the prompt's picture looks so far."""

    prompt_id: str
    image: bytes


class Ended(Struct, frozen=True):
    """The prompt has ended, or is about to."""

    prompt_id: str


class _OfPreview(Struct, frozen=True):
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


def shown(message: bytes, runs: str | None) -> Preview | None:
    """Read a binary message; None for what is no preview of a known prompt.

    ``runs``: the prompt whose steps are being told of. The older form says of no preview whose it is, and
    that of a prompt which came without a client's id is sent to everybody.
    """
    kind, second = (int.from_bytes(message[at : at + _WORD]) for at in (0, _WORD))
    rest = message[2 * _WORD :]
    if kind == _PREVIEW:
        return Preview(runs, rest) if runs else None
    if kind != _PREVIEW_WITH_METADATA:
        return None
    described = decoded(rest[:second], _OfPreview)
    return Preview(described.prompt_id, rest[second:]) if described else None


class Ears:
    """One socket under one ``client_id``: a ComfyUI tells of a prompt whoever has the id it came with."""

    def __init__(self, endpoint: Endpoint, client_id: str) -> None:
        self._endpoint = endpoint
        self._path = socket_path(client_id)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._next_try_at = 0.0
        self._runs: str | None = None

    async def open(self, now: float) -> None:
        """Connect, unless that is done or was tried a moment ago."""
        if self._socket is None and now >= self._next_try_at:
            self._next_try_at = now + RECONNECT_S
            self._socket = await self._endpoint.websocket(self._path, CONNECT_TIMEOUT_S)
            if self._socket is not None:
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    await self._socket.send_str(_HELLO)

    async def hear(self) -> Step | Preview | Ended:
        """Wait for the next message that says something, for ever where no socket is open."""
        while self._socket is not None:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                if (said := heard(message.data)) is not None:
                    self._runs = said.prompt_id if isinstance(said, Step) else None
                    return said
            elif message.type is aiohttp.WSMsgType.BINARY:
                if (preview := shown(message.data, self._runs)) is not None:
                    return preview
            else:
                await self.close()
        silence: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        return await silence

    async def close(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()
