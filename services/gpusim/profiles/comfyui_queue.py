"""The queue of a ComfyUI, its history, its files, and what it says of them by websocket.

One worker; whoever has the client's id that a prompt came with hears of it. A restart forgets everything.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from services.gpusim.gpu import Gpu, JobFailedError, Turn
from services.gpusim.model import Job, step_times_s
from services.gpusim.painting import GARBAGE, batch
from services.gpusim.picture import preview, render
from services.gpusim.profiles.comfyui_drawing import Drawing

MAX_FILES = 512
"""Of more pictures than these, the oldest are gone; the real server keeps all on its disk."""
MAX_HISTORY = 10_000
_JPEG = 1
_PREVIEW = 1
_PREVIEW_WITH_METADATA = 4

# Any: JSON of any shape, said or handed back as it came.
Json = Any
Place = tuple[str, str, str]
"""Type, subfolder and name of a file."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the queue."""

    number: float
    id: str
    graph: dict[str, Json]
    client_id: str | None
    work: Job
    drawing: Drawing

    @property
    def shown(self) -> list[Json]:
        """Show it as the queue does."""
        extra = {} if self.client_id is None else {"client_id": self.client_id}
        return [self.number, self.id, self.graph, extra, self.drawing.outputs]


class Queue:
    """The prompts of one server."""

    def __init__(self, gpu: Gpu) -> None:
        self.running: Prompt | None = None
        self.pending: list[Prompt] = []
        self.history: dict[str, Json] = {}
        self.files: dict[Place, bytes] = {}
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.wants_metadata: set[str] = set()
        """The clients that asked to be told of each preview whose it is."""
        self._gpu = gpu
        self._arrived = asyncio.Event()
        self._cached: tuple[dict[str, Json], dict[str, Json]] | None = None
        self._saved = 0

    @property
    def remaining(self) -> int:
        """How many prompts have not ended."""
        return len(self.pending) + (self.running is not None)

    def add(self, prompt: Prompt) -> None:
        """Queue a prompt; those with a lower number go first."""
        self.pending.append(prompt)
        self.pending.sort(key=lambda each: each.number)
        self._arrived.set()

    def drop(self, prompt_ids: Sequence[Json]) -> int:
        """Take prompts that wait out of the queue, which leaves no trace; say how many."""
        dropped = [prompt for prompt in self.pending if prompt.id in prompt_ids]
        for prompt in dropped:
            self.pending.remove(prompt)
            self._gpu.withdraw(prompt.work)
        return len(dropped)

    def interrupt(self) -> None:
        """End what runs after the step that is under way."""
        if self._gpu.current is not None:
            self._gpu.current.interrupted = True

    async def run(self) -> None:
        """Work the queue off, until cancelled."""
        while True:
            if self.pending:
                self.running = self.pending.pop(0)
                await self._execute(self.running)
                continue
            self._arrived.clear()
            await self._arrived.wait()

    async def tell(self, prompt: Prompt | None, event: str, data: dict[str, Json]) -> None:
        """Send an event to the client of a prompt, or to all."""
        for socket in self._hearers(prompt):
            with contextlib.suppress(ConnectionError):
                await socket.send_str(msgspec.json.encode({"type": event, "data": data}).decode())

    def _hearers(self, prompt: Prompt | None) -> list[web.WebSocketResponse]:
        """Find whom to tell of a prompt: everybody, unless it came with a client's id."""
        if prompt is None or prompt.client_id is None:
            return list(self.sockets.values())
        mine = self.sockets.get(prompt.client_id)
        return [] if mine is None else [mine]

    async def tell_status(self) -> None:
        """Tell all how long the queue is."""
        await self.tell(None, "status", {"status": {"exec_info": {"queue_remaining": self.remaining}}})

    async def _execute(self, prompt: Prompt) -> None:
        messages: list[Json] = []
        outputs: dict[str, Json] | None = None
        await self._note(prompt, messages, "execution_start", {})
        try:
            async with self._gpu.turn(prompt.work) as turn:
                outputs = await self._worked(prompt, turn, messages)
        except JobFailedError as error:
            await self._note(prompt, messages, "execution_error", _failure(prompt, error))
        else:
            if outputs is None:
                await self._note(prompt, messages, "execution_interrupted", {"executed": []})
            else:
                await self._note(prompt, messages, "execution_success", {})
        self._enter(prompt, messages, outputs)
        self.running = None
        await self.tell(prompt, "executing", {"node": None, "prompt_id": prompt.id})
        await self.tell_status()

    async def _worked(self, prompt: Prompt, turn: Turn, messages: list[Json]) -> dict[str, Json] | None:
        """Give the outputs, the old ones where the last graph was the same; None when interrupted."""
        if self._cached is not None and self._cached[0] == prompt.graph:
            await turn.stumble()
            await self._note(prompt, messages, "execution_cached", {"nodes": list(prompt.graph)})
            return None if turn.interrupted else self._cached[1]
        await self._note(prompt, messages, "execution_cached", {"nodes": []})
        await self._sample(prompt, turn)
        if turn.interrupted:
            return None
        drawn = batch(prompt.drawing.picture, prompt.drawing.count)
        images = [GARBAGE if turn.spoiled else await asyncio.to_thread(render, each) for each in drawn]
        await turn.drag()
        outputs = {node: {"images": self._save(prompt, node, images)} for node in prompt.drawing.outputs}
        for node, output in outputs.items():
            said = {"node": node, "display_node": node, "output": output, "prompt_id": prompt.id}
            await self.tell(prompt, "executed", said)
        self._cached = None if turn.spoiled else (prompt.graph, outputs)
        return outputs

    async def _sample(self, prompt: Prompt, turn: Turn) -> None:
        drawing = prompt.drawing
        await self.tell(prompt, "executing", {"node": drawing.sampler, "prompt_id": prompt.id})
        area = drawing.picture.width * drawing.picture.height * drawing.count
        steps = drawing.picture.steps
        durations_s = step_times_s(self._gpu.options, prompt.work.id, area, steps)
        middle = len(durations_s) // 2
        for step, duration_s in enumerate(durations_s or [0.0] * steps):
            if step == middle:
                await turn.stumble()
            await turn.work([duration_s])
            if turn.interrupted:
                return
            await self._tell_progress(prompt, step + 1)

    async def _tell_progress(self, prompt: Prompt, step: int) -> None:
        """Say it twice, as new servers do for old clients, and show it."""
        node, steps = prompt.drawing.sampler, prompt.drawing.picture.steps
        said = {"value": step, "max": steps, "prompt_id": prompt.id}
        state = {**said, "state": "running", "node_id": node}
        await self.tell(prompt, "progress_state", {"prompt_id": prompt.id, "nodes": {node: state}})
        await self.tell(prompt, "progress", {**said, "node": node})
        if self._gpu.options.previews and (sockets := self._hearers(prompt)):
            image = await asyncio.to_thread(preview, prompt.drawing.picture, step, "jpeg")
            described = prompt.client_id in self.wants_metadata
            message = _described(prompt, image) if described else _undescribed(image)
            for socket in sockets:
                with contextlib.suppress(ConnectionError):
                    await socket.send_bytes(message)

    async def _note(self, prompt: Prompt, messages: list[Json], event: str, data: dict[str, Json]) -> None:
        """Say an event that the history keeps; how a prompt failed is told to all."""
        said = {"prompt_id": prompt.id, "timestamp": int(self._gpu.clock() * 1000), **data}
        messages.append([event, said])
        ill = event in ("execution_error", "execution_interrupted")
        await self.tell(None if ill else prompt, event, said)

    def _enter(self, prompt: Prompt, messages: list[Json], outputs: dict[str, Json] | None) -> None:
        done = outputs is not None
        status = {"status_str": "success" if done else "error", "completed": done, "messages": messages}
        self.history.pop(prompt.id, None)
        self.history[prompt.id] = {
            "prompt": prompt.shown,
            "outputs": outputs or {},
            "status": status,
            "meta": {},
        }
        if len(self.history) > MAX_HISTORY:
            del self.history[next(iter(self.history))]

    def _save(self, prompt: Prompt, node: str, images: Sequence[bytes]) -> list[dict[str, str]]:
        prefix = str(prompt.graph[node]["inputs"].get("filename_prefix", ""))
        folder, _, name = prefix.rpartition("/")
        place = "output" if prefix else "temp"
        described = []
        for image in images:
            self._saved += 1
            filename = f"{name or 'ComfyUI_temp'}_{self._saved:05}_.png"
            self.files[place, folder, filename] = image
            described.append({"filename": filename, "subfolder": folder, "type": place})
        while len(self.files) > MAX_FILES:
            del self.files[next(iter(self.files))]
        return described


def _undescribed(image: bytes) -> bytes:
    """Write the older form of a preview, which says not whose it is."""
    return _PREVIEW.to_bytes(4) + _JPEG.to_bytes(4) + image


def _described(prompt: Prompt, image: bytes) -> bytes:
    """Write the newer form of a preview."""
    node = prompt.drawing.sampler
    described = msgspec.json.encode(
        {
            "node_id": node,
            "prompt_id": prompt.id,
            "display_node_id": node,
            "parent_node_id": None,
            "real_node_id": node,
            "image_type": "image/jpeg",
        }
    )
    return _PREVIEW_WITH_METADATA.to_bytes(4) + len(described).to_bytes(4) + described + image


def _failure(prompt: Prompt, error: JobFailedError) -> dict[str, Json]:
    kind = "torch.OutOfMemoryError" if error.out_of_memory else "RuntimeError"
    return {
        "node_id": prompt.drawing.sampler,
        "node_type": "KSampler",
        "executed": [],
        "exception_message": str(error),
        "exception_type": kind,
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
    }
