"""ComfyUI: graphs of nodes, a queue with ids that clients may choose, and a history of what has ended.

A client that goes away frees nothing. The old one knows no jobs and interrupts whatever runs, whichever
prompt it is told.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import WSMsgType, web

from services.gpusim.gpu import Gpu
from services.gpusim.model import ProfileName
from services.gpusim.profiles import reply
from services.gpusim.profiles.comfyui_drawing import drawing
from services.gpusim.profiles.comfyui_nodes import GraphError, checked, described, nodes
from services.gpusim.profiles.comfyui_queue import Prompt, Queue

MODEL = "sd_xl_base_1.0.safetensors"

_GIB = 1024**3

# Any: JSON of any shape; each member's type is checked where it is read.
Json = Any


class _Flags(msgspec.Struct, frozen=True, tag_field="type", tag="feature_flags"):
    data: dict[str, Json]


class ComfyUI:
    """See the module."""

    notices_disconnect = False

    def __init__(self, gpu: Gpu, models: Sequence[str]) -> None:
        self._gpu = gpu
        self._old = gpu.options.profile is ProfileName.COMFYUI_OLD
        self._nodes = nodes(models)
        self._queue = Queue(gpu)
        self._number = 0

    def routes(self) -> Sequence[web.RouteDef]:
        table = [
            ("GET", "/prompt", self._remaining),
            ("POST", "/prompt", self._submit),
            ("GET", "/queue", self._show_queue),
            ("POST", "/queue", self._change_queue),
            ("GET", "/history/{id}", self._history),
            ("POST", "/interrupt", self._interrupt),
            ("GET", "/view", self._view),
            ("GET", "/system_stats", self._stats),
            ("GET", "/object_info/{class}", self._object_info),
            ("GET", "/ws", self._listen),
        ]
        routes = [web.route(*route) for route in table]
        routes += [web.route(method, f"/api{path}", answer) for method, path, answer in table]
        return routes if self._old else [*routes, web.post("/api/jobs/{id}/cancel", self._cancel)]

    def unauthorized(self, _path: str) -> web.Response | None:
        """Stand in for the proxy in front: the real server knows no keys."""
        return reply({"error": "Unauthorized"}, 401)

    def missing(self, status: int) -> web.Response:
        return web.Response(status=status, text=f"{status}: {HTTPStatus(status).phrase}")

    async def run(self) -> None:
        await self._queue.run()

    async def _remaining(self, _http: web.Request) -> web.Response:
        return reply({"exec_info": {"queue_remaining": self._queue.remaining}})

    async def _submit(self, http: web.Request) -> web.Response:
        body = await _parsed(http)
        number = float(body.get("number", self._number))
        self._number += 1
        if "prompt" not in body:
            return _refused("no_prompt", "No prompt provided")
        prompt_id = body.get("prompt_id") or str(UUID(int=self._gpu.ledger.next_id + 1))
        if not self._old and not _is_canonical(prompt_id):
            return _refused("invalid_prompt_id", "prompt_id must be a valid UUID")
        graph = body["prompt"]
        try:
            drawn = drawing(graph, checked(graph, self._nodes))
        except GraphError as error:
            return reply(error.body, 400)
        picture = drawn.picture
        work = self._gpu.admit(prompt=picture.prompt, seed=picture.seed, model=drawn.model)
        if work is None:
            return reply({"error": "busy"}, 503)
        client_id = body.get("client_id")
        self._queue.add(
            Prompt(number=number, id=prompt_id, graph=graph, client_id=client_id, work=work, drawing=drawn)
        )
        await self._queue.tell_status()
        return reply({"prompt_id": prompt_id, "number": number, "node_errors": {}})

    async def _show_queue(self, _http: web.Request) -> web.Response:
        running = [] if self._queue.running is None else [self._queue.running.shown]
        pending = [prompt.shown for prompt in self._queue.pending]
        return reply({"queue_running": running, "queue_pending": pending})

    async def _change_queue(self, http: web.Request) -> web.Response:
        body = await _parsed(http)
        if body.get("clear"):
            self._queue.drop([prompt.id for prompt in self._queue.pending])
        self._queue.drop(body.get("delete", ()))
        return web.Response()

    async def _history(self, http: web.Request) -> web.Response:
        """Answer with nothing for what is not there yet, and for what never was."""
        prompt_id = http.match_info["id"]
        entry = self._queue.history.get(prompt_id)
        return reply({} if entry is None else {prompt_id: entry})

    async def _interrupt(self, http: web.Request) -> web.Response:
        wanted = None if self._old else (await _parsed(http)).get("prompt_id")
        if wanted is None or self._runs(wanted):
            self._queue.interrupt()
        return web.Response()

    async def _cancel(self, http: web.Request) -> web.Response:
        """Cancel what waits or runs; for anything else there is nothing to do, which is no error."""
        prompt_id = http.match_info["id"]
        if self._runs(prompt_id):
            self._queue.interrupt()
            return reply({"cancelled": True})
        return reply({"cancelled": self._queue.drop([prompt_id]) > 0})

    def _runs(self, prompt_id: Json) -> bool:
        return self._queue.running is not None and self._queue.running.id == prompt_id

    async def _view(self, http: web.Request) -> web.Response:
        if "filename" not in http.query:
            return web.Response(status=404)
        place = (http.query.get("type", "output"), http.query.get("subfolder", ""), http.query["filename"])
        image = self._queue.files.get(place)
        if image is None:
            return web.Response(status=404)
        return web.Response(body=image, content_type="image/png")

    async def _stats(self, _http: web.Request) -> web.Response:
        system = {"os": "posix", "comfyui_version": "0.3.64" if self._old else "0.9.2", "argv": ["main.py"]}
        device = {
            "name": "cuda:0 simulated",
            "type": "cuda",
            "index": 0,
            "vram_total": 24 * _GIB,
            "vram_free": 20 * _GIB,
        }
        return reply({"system": system, "devices": [device]})

    async def _object_info(self, http: web.Request) -> web.Response:
        kind = http.match_info["class"]
        node = self._nodes.get(kind)
        return reply({} if node is None else {kind: described(kind, node)})

    async def _listen(self, http: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(http)
        client_id = http.query.get("clientId") or str(UUID(int=self._gpu.ledger.next_id + 1))
        sockets = self._queue.sockets
        sockets[client_id] = socket
        try:
            await self._queue.tell_status()
            first = True
            async for message in socket:
                if message.type is WSMsgType.ERROR:
                    break
                if first and not self._old and message.type is WSMsgType.TEXT:
                    await self._greet(client_id, socket, message.data)
                first = False
        finally:
            if sockets.get(client_id) is socket:
                del sockets[client_id]
                self._queue.wants_metadata.discard(client_id)
        return socket

    async def _greet(self, client_id: str, socket: web.WebSocketResponse, first: str) -> None:
        """Take the first message for what the client can, and answer with what the server can."""
        try:
            said = msgspec.json.decode(first, type=_Flags)
        except msgspec.DecodeError:
            return
        if said.data.get("supports_preview_metadata") is True:
            self._queue.wants_metadata.add(client_id)
        flags = {"supports_preview_metadata": True, "max_upload_size": 100 * 1024**2}
        await socket.send_str(msgspec.json.encode({"type": "feature_flags", "data": flags}).decode())


async def _parsed(http: web.Request) -> dict[str, Json]:
    """Read a body; one that is no object is a 500, as every exception of the real server is."""
    try:
        return msgspec.json.decode(await http.read(), type=dict[str, Json])
    except msgspec.DecodeError as error:
        raise web.HTTPInternalServerError from error


def _is_canonical(prompt_id: Json) -> bool:
    try:
        return isinstance(prompt_id, str) and str(UUID(prompt_id)) == prompt_id
    except ValueError:
        return False


def _refused(kind: str, message: str) -> web.Response:
    error = {"type": kind, "message": message, "details": message, "extra_info": {}}
    return reply({"error": error, "node_errors": {}}, 400)
