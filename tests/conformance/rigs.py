"""One adapter and the server behind it, held by the test.

The one rule: everything that differs between the adapters under test stands here; the suite knows none.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Final, Protocol

import aiohttp

from schemas import registry, workflow
from schemas.ids import BackendId, TaskId
from schemas.registry import KIND_OF, Backend
from schemas.requests import ImageRequest, Kind, SpeechRequest
from services.dispatcher.backends.base import (
    Adapter,
    Audio,
    Call,
    Failed,
    Finished,
    Job,
    Ready,
    Refused,
    Report,
)
from services.dispatcher.backends.detect import adapter_for
from services.gpusim.control import Control
from services.gpusim.main import running
from services.gpusim.model import Fault, Options, ProfileName
from tests import speech
from tests.fakes import HOLD, FakeAdapter, FakeCall

WORKFLOW: Final = workflow.read(
    Path(__file__).parents[2].joinpath("deploy/comfyui/text-to-image.json").read_bytes()
)
SPOKEN: Final = {"he", "might", "even", "have", "been", "made", "amiable", "himself"}

PROFILES: Final = {
    registry.Protocol.SDCPP: ProfileName.SDCPP,
    registry.Protocol.OPENAI_IMAGES: ProfileName.OPENAI,
    registry.Protocol.SDAPI: ProfileName.A1111,
    registry.Protocol.COMFYUI: ProfileName.COMFYUI,
    registry.Protocol.OPENAI_STT: ProfileName.WHISPER,
    registry.Protocol.WHISPERCPP: ProfileName.WHISPERCPP,
    registry.Protocol.WHISPER_ASR: ProfileName.WHISPER_ASR,
}


class Rig(Protocol):
    """``hold`` keeps the next call from ending until ``release``; ``held`` waits until it runs."""

    @property
    def adapter(self) -> Adapter: ...

    @property
    def gone(self) -> Adapter:
        """Give an adapter for an address where nobody listens."""
        ...

    @property
    def kind(self) -> Kind: ...

    @property
    def model(self) -> str | None:
        """Give the model that the backend names, None where it names none."""
        ...

    @property
    def attaches(self) -> bool:
        """Say whether the protocol gives a job an id."""
        ...

    @property
    def shows_idle(self) -> bool:
        """Say whether the protocol tells, without an id, that nothing runs."""
        ...

    @property
    def hangs_up(self) -> bool:
        """Say whether a call that is stopped lets go of the backend at once, which frees the GPU."""
        ...

    @property
    def answers_busy(self) -> bool:
        """Say whether a probe is answered while a job runs."""
        ...

    async def hold(self) -> None: ...

    async def held(self) -> None: ...

    async def release(self) -> None: ...

    async def received(self) -> int: ...


class FakeRig:
    attaches = True
    shows_idle = False
    hangs_up = False
    answers_busy = True
    model = "fake"

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.adapter = FakeAdapter(kind)
        self.gone = FakeAdapter(kind)
        self.gone.health = Refused("nobody there")
        self._held: FakeCall | None = None

    async def hold(self) -> None:
        self.adapter.will(HOLD)

    async def held(self) -> None:
        self._held = await self.adapter.started.get()

    async def release(self) -> None:
        if self._held is not None:
            self._held.release()

    async def received(self) -> int:
        return len(self.adapter.begun)


class SimulatorRig:
    """The real adapter and the simulator of its server, in this process."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        gone_url: str,
        protocol: registry.Protocol,
        model: str | None,
    ) -> None:
        backend = backend_at(url, protocol)
        self.kind = KIND_OF[protocol]
        self.attaches = protocol in (registry.Protocol.SDCPP, registry.Protocol.COMFYUI)
        self.hangs_up = protocol is registry.Protocol.WHISPERCPP
        self.answers_busy = protocol is not registry.Protocol.WHISPER_ASR
        self.shows_idle = protocol in (registry.Protocol.SDAPI, registry.Protocol.COMFYUI)
        self.adapter = adapter_for(session, backend)
        self.gone = adapter_for(session, backend_at(gone_url, protocol))
        self.model = model
        self.url = url
        self.control = Control(session, url)

    async def hold(self) -> None:
        await self.control.script(Fault.HANG)

    async def held(self) -> None:
        await eventually(self.busy)

    async def release(self) -> None:
        await self.control.clear()

    async def received(self) -> int:
        return (await self.control.stats()).jobs.received

    async def busy(self) -> bool:
        return (await self.control.stats()).running == 1


@asynccontextmanager
async def simulated(
    session: aiohttp.ClientSession,
    protocol: registry.Protocol,
    port: int = 0,
    *,
    profile: ProfileName | None = None,
    step_ms: float = 0,
) -> AsyncIterator[SimulatorRig]:
    """Run a server that draws at once unless told otherwise, and wait until it is ready."""
    options = Options(profile=profile or PROFILES[protocol], port=port, step_ms=step_ms)
    async with running(options) as url:
        model = await ready_model(adapter_for(session, backend_at(url, protocol)))
        with refusing() as gone_url:
            yield SimulatorRig(session, url, gone_url, protocol, model)


def backend_at(
    url: str,
    protocol: registry.Protocol | None,
    *,
    kind: Kind | None = None,
    api_key: str | None = None,
    disconnect_cancels: bool = False,
) -> Backend:
    return Backend(
        name=BackendId("gpu-1"),
        url=url,
        kind=kind or (KIND_OF[protocol] if protocol else Kind.IMAGE),
        protocol=protocol,
        api_key=api_key,
        disconnect_cancels=disconnect_cancels,
        workflow=WORKFLOW if protocol is registry.Protocol.COMFYUI else None,
    )


@contextmanager
def refusing() -> Iterator[str]:
    """Hold a port on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


async def ready_model(adapter: Adapter) -> str | None:
    """Wait until the backend is ready, and give its first model, None where it names none."""
    found: list[Ready] = []

    async def ready() -> bool:
        health = await adapter.probe(2.0)
        if isinstance(health, Ready):
            found.append(health)
        return bool(found)

    await eventually(ready)
    return next(iter(found[0].models), None)


_attempts = count(1)
"""An attempt is made once, so that what a backend knows it by is used once."""


def job(rig: Rig, *, seed: int = 7, n: int = 1, width: int = 128, height: int = 64) -> Job:
    """Ask for what that backend does."""
    match rig.kind:
        case Kind.IMAGE:
            return image_job(rig.model, seed=seed, n=n, width=width, height=height)
        case Kind.SPEECH:
            return speech_job(rig.model, SpeechRequest(artifact="a-1"))


def image_job(model: str | None, *, seed: int = 7, n: int = 1, width: int = 128, height: int = 64) -> Job:
    request = ImageRequest(prompt="a red fox", seed=seed, n=n, width=width, height=height, steps=4)
    return Job(
        task_id=TaskId("0199d4e8-7c1a-7000-8000-0123456789ab"),
        attempt=next(_attempts),
        request=request,
        model=model,
    )


def speech_job(model: str | None, request: SpeechRequest, content: bytes | None = None) -> Job:
    return Job(
        task_id=TaskId("0199d4e8-7c1a-7000-8000-0123456789ac"),
        attempt=1,
        request=request,
        model=model,
        audio=recording(speech.clip() if content is None else content),
    )


def recording(content: bytes) -> Audio:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 65_536):
            yield content[start : start + 65_536]

    return Audio(open=chunks, size=len(content), media_type="audio/wav", filename='a "b".wav')


async def read(call: Call) -> list[Report]:
    return [report async for report in call.reports()]


async def end(call: Call) -> Finished | Failed:
    """Read a call to its end, which must be the only one."""
    reports = await read(call)
    ends = [report for report in reports if isinstance(report, Finished | Failed)]
    assert len(ends) == 1
    assert reports[-1] is ends[0]
    return ends[0]


async def finished(call: Call) -> Finished:
    ended = await end(call)
    assert isinstance(ended, Finished), ended
    return ended


async def failed(call: Call) -> Failed:
    ended = await end(call)
    assert isinstance(ended, Failed), ended
    return ended


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 30.0) -> None:
    """Wait on a condition that lies in another process or behind a socket, where nothing can wake us."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - see the docstring
            await asyncio.sleep(0.005)
