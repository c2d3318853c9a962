"""ComfyUI: prompts of the operator's workflow, queued under ids of ours and asked for until they end.

The one rule: an attempt's ids are known before anything is sent, and the queue and the history together say
what became of them. So whoever has the first of them can read how the attempt ends, or stop it.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
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
    unless_stopped,
    wrong_kind,
)
from services.dispatcher.backends.comfyui_events import Ears, Step
from services.dispatcher.backends.comfyui_refusals import refusal
from services.dispatcher.backends.comfyui_watch import Watch
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
    """One attempt: a prompt, or one for each picture; the first that fails takes the others with it."""

    def __init__(self, endpoint: Endpoint, workflow: Workflow | None, job: Job) -> None:
        self._endpoint = endpoint
        self._workflow = workflow
        self._job = job
        self._stopped = False
        self._doubt: Failed | None = None
        self._failure: Failed | None = None
        self._watch: Watch | None = None

    async def stop(self) -> None:
        self._stopped = True
        if self._watch is not None:
            self._watch.stop()

    async def reports(self) -> AsyncIterator[Report]:
        request, workflow, resumed = self._job.request, self._workflow, self._job.remote_id
        if not isinstance(request, ImageRequest):
            yield wrong_kind()
            return
        if workflow is None:
            yield failed(ErrorClass.MISCONFIGURED, "no_workflow", _NO_WORKFLOW)
            return
        remote_id = resumed or wire.remote_id(self._job.task_id, self._job.attempt)
        prompts = wire.prompts(workflow, request, self._job.model, remote_id)
        ids: Sequence[str] = [prompt.id for prompt in prompts]
        if resumed is None:
            if self._stopped:
                yield cancelled()
                return
            yield Attached(remote_id)
            ids = await self._submitted(prompts, workflow)
        pictures: list[list[bytes]] = []
        async with contextlib.aclosing(self._followed(ids, remote_id, pictures)) as steps:
            async for step in steps:
                yield step
        yield await self._end(pictures, request.seed)

    async def _submitted(self, prompts: Sequence[wire.Prompt], workflow: Workflow) -> list[str]:
        """Queue them all, since the server has a queue; give those that it may have."""
        ids: list[str] = []
        for prompt in prompts:
            if self._stopped:
                break
            body = {"prompt": prompt.graph, "client_id": prompts[0].id, "prompt_id": prompt.id}
            answer = await self._endpoint.post(wire.SUBMIT, body)
            self._failure = refusal(answer, workflow)
            if isinstance(answer, Broken) and answer.trouble is Trouble.LOST:
                # Perhaps it has it, perhaps not: the queue will tell.
                self._doubt, self._failure = self._failure, None
            if self._failure is not None:
                break
            ids.append(prompt.id)
        return ids

    async def _followed(
        self, ids: Sequence[str], client_id: str, pictures: list[list[bytes]]
    ) -> AsyncGenerator[Progressed, None]:
        """Follow the prompts to their ends, and collect what they give."""
        ears, told = Ears(self._endpoint, client_id), 0.0
        certain = self._job.remote_id is None and self._doubt is None
        expected_s = None if self._job.expected_s is None else self._job.expected_s / max(1, len(ids))
        try:
            for number in range(len(ids)):
                self._watch = Watch(self._endpoint, ears, ids[number:], expected_s, certain=certain)
                if self._stopped or self._failure is not None:
                    self._watch.stop()
                async for seen in self._watch.seen():
                    if not isinstance(seen, Step):
                        await self._collect(seen, pictures)
                    elif (fraction := (number + seen.step / seen.steps) / len(ids)) > told:
                        told = fraction
                        yield Progressed(fraction=fraction, step=seen.step, steps=seen.steps)
        finally:
            await ears.close()

    async def _collect(self, end: wire.Entry | Failed, pictures: list[list[bytes]]) -> None:
        """Get the pictures at once: another prompt of the same name may lie in their place later."""
        failure = end if isinstance(end, Failed) else wire.failure(end)
        if isinstance(end, wire.Entry) and failure is None:
            pictures.append([])
            for file in wire.files(end):
                picture = wire.picture(await self._endpoint.get(wire.view_path(file), FETCH_TIMEOUT_S))
                if isinstance(picture, Failed):
                    failure = picture
                    break
                pictures[-1].append(picture)
        if self._failure is None and failure is not None:
            never_came = self._doubt is not None and failure.error.code == wire.LOST
            self._failure = self._doubt if never_came else failure

    async def _end(self, pictures: list[list[bytes]], seed: int | None) -> Finished | Failed:
        if self._failure is None and not self._stopped:
            end = await asyncio.to_thread(wire.result, pictures, seed)
            return unless_stopped(end, stopped=self._stopped)
        if self._failure is None or (self._stopped and self._failure.error.code in wire.ENDS_OF_STOPPED):
            return cancelled()
        return self._failure
