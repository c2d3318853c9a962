"""ComfyUI: prompts of the operator's workflow, one at a time under ids of ours, asked for until they end.

The one rule: an attempt's ids are known before anything is sent, and the queue and the history together say
what became of them. So whoever has the first of them can read how the attempt ends, or stop it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

import aiohttp

from schemas.events import ErrorClass
from schemas.ids import TaskId
from schemas.registry import Backend
from schemas.requests import ImageRequest
from schemas.workflow import Workflow
from services.dispatcher.backends import comfyui_wire as wire
from services.dispatcher.backends.base import (
    Attached,
    Failed,
    Finished,
    Health,
    Job,
    Misconfigured,
    Previewed,
    Progressed,
    Ready,
    Report,
    failed,
)
from services.dispatcher.backends.classify import (
    OK,
    Broken,
    Reply,
    Trouble,
    cancelled,
    health,
    lease_lost,
    unless_stopped,
    wrong_kind,
)
from services.dispatcher.backends.comfyui_events import Ears, Preview, Step
from services.dispatcher.backends.comfyui_refusals import refusal
from services.dispatcher.backends.comfyui_watch import Seen, Watch
from services.dispatcher.backends.http import Endpoint

FETCH_TIMEOUT_S: Final = 60.0
IDLE_TIMEOUT_S: Final = 2.0

_NO_WORKFLOW: Final = "it is a ComfyUI, which needs a workflow: ?workflow=/path/to/file.json behind its url"


class ComfyuiAdapter:
    """See the module."""

    resumes = True

    def __init__(self, session: aiohttp.ClientSession, backend: Backend) -> None:
        self._endpoint = Endpoint(session, backend)
        self._workflow = backend.workflow

    def call(self, job: Job) -> "ComfyuiCall":
        return ComfyuiCall(self._endpoint, self._workflow, job)

    async def probe(self, timeout_s: float) -> Health:
        if self._workflow is None:
            return Misconfigured(_NO_WORKFLOW)
        answer = await self._endpoint.get(wire.STATS, timeout_s / 2)
        if isinstance(answer, Broken) or answer.status != OK:
            return health(answer)
        if not wire.is_comfyui(answer.body):
            return Misconfigured(f"{wire.STATS} answers, but not as a ComfyUI does")
        return Ready(await self._models(self._workflow, timeout_s / 2))

    async def _models(self, workflow: Workflow, timeout_s: float) -> tuple[str, ...]:
        """Name what makes its pictures: what a task may choose from, else what the workflow has chosen."""
        path = wire.choices_path(workflow)
        if path is None:
            return (workflow.makes,) if workflow.makes else ()
        answer = await self._endpoint.get(path, timeout_s)
        known = isinstance(answer, Reply) and answer.status == OK
        return wire.choices(answer.body, workflow) if isinstance(answer, Reply) and known else ()

    async def idle(self, remote_id: str | None, task_id: TaskId | None = None) -> bool | None:  # noqa: ARG002 - the port's; its ids are made of the attempt
        return wire.idle(await self._endpoint.get(wire.QUEUE, IDLE_TIMEOUT_S), remote_id)


class ComfyuiCall:
    """One attempt: a prompt, or one for each picture, submitted when that before it has ended."""

    def __init__(self, endpoint: Endpoint, workflow: Workflow | None, job: Job) -> None:
        self._endpoint = endpoint
        self._workflow = workflow
        self._job = job
        self._remote_id = job.remote_id or wire.remote_id(job.task_id, job.attempt)
        self._ears = Ears(endpoint, self._remote_id)
        self._prompts: Sequence[wire.Prompt] = ()
        self._resuming = job.remote_id is not None
        self._stopped = False
        self._watch: Watch | None = None

    async def stop(self) -> None:
        self._stopped = True
        if self._watch is not None:
            self._watch.stop()

    async def reports(self) -> AsyncIterator[Report]:
        request, workflow = self._job.request, self._workflow
        if not isinstance(request, ImageRequest):
            yield wrong_kind()
            return
        if workflow is None:
            yield failed(ErrorClass.MISCONFIGURED, "no_workflow", _NO_WORKFLOW)
            return
        if not self._resuming:
            if self._stopped:
                yield cancelled()
                return
            yield Attached(self._remote_id)
        self._prompts = wire.prompts(workflow, request, self._job.model, self._remote_id)
        try:
            async for report in self._drawn(workflow, request.seed):
                yield report
        finally:
            await self._ears.close()

    async def _drawn(
        self, workflow: Workflow, seed: int | None
    ) -> AsyncIterator[Progressed | Previewed | Finished | Failed]:
        """Have one picture drawn after the other; the first that fails ends it."""
        pictures: list[Sequence[bytes]] = []
        told = 0.0
        for number in range(len(self._prompts)):
            async for seen in self._followed(number, workflow):
                if isinstance(seen, Step):
                    fraction = (number + seen.step / seen.steps) / len(self._prompts)
                    if fraction > told:
                        told = fraction
                        yield Progressed(fraction=fraction, step=seen.step, steps=seen.steps)
                    continue
                if isinstance(seen, Preview):
                    yield Previewed(seen.image)
                    continue
                found = seen if isinstance(seen, Failed) else await self._fetched(seen)
                if isinstance(found, Failed):
                    yield self._blamed(found)
                    return
                pictures.append(found)
        end = await asyncio.to_thread(wire.result, pictures, seed)
        yield unless_stopped(end, stopped=self._stopped)

    async def _followed(self, number: int, workflow: Workflow) -> AsyncIterator[Seen]:
        """Follow a prompt to its end; it is begun here, unless another dispatcher has done that."""
        if self._resuming:
            async for seen in self._watched(number, certain=False):
                if number and wire.is_lost(seen):
                    # The server knows those before it, so it forgot none: nobody had come to this one.
                    self._resuming = False
                else:
                    yield seen
        if not self._resuming:
            async for seen in self._begun(number, workflow):
                yield seen

    async def _begun(self, number: int, workflow: Workflow) -> AsyncIterator[Seen]:
        """Submit a prompt, if that is still ours to do, and follow it."""
        if number and not self._stopped and not await self._job.may_go_on():
            yield lease_lost()
            return
        if self._stopped:
            yield cancelled()
            return
        answer = await self._submitted(self._prompts[number])
        refused = refusal(answer, workflow)
        # Where the answer was lost, perhaps it has it, perhaps not: the queue will tell.
        doubtful = isinstance(answer, Broken) and answer.trouble is Trouble.LOST
        if refused is not None and not doubtful:
            yield refused
            return
        async for seen in self._watched(number, certain=not doubtful):
            yield refused if refused is not None and wire.is_lost(seen) else seen

    async def _submitted(self, prompt: wire.Prompt) -> Reply | Broken:
        body = {"prompt": prompt.graph, "client_id": self._remote_id, "prompt_id": prompt.id}
        return await self._endpoint.post(wire.SUBMIT, body)

    def _watched(self, number: int, *, certain: bool) -> AsyncIterator[Seen]:
        expected_s = None if self._job.expected_s is None else self._job.expected_s / len(self._prompts)
        prompt_id = self._prompts[number].id
        self._watch = Watch(self._endpoint, self._ears, prompt_id, expected_s, certain=certain)
        if self._stopped:
            self._watch.stop()
        return self._watch.seen()

    async def _fetched(self, entry: wire.Entry) -> Sequence[bytes] | Failed:
        """Get the pictures at once: another prompt of the same name may lie in their place later."""
        failure = wire.failure(entry)
        if failure is not None:
            return failure
        pictures: list[bytes] = []
        for file in wire.files(entry):
            picture = wire.picture(await self._endpoint.get(wire.view_path(file), FETCH_TIMEOUT_S))
            if isinstance(picture, Failed):
                return picture
            pictures.append(picture)
        return pictures

    def _blamed(self, failure: Failed) -> Failed:
        return cancelled() if self._stopped and failure.error.code in wire.ENDS_OF_STOPPED else failure
