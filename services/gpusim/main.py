"""The composition root: one simulated GPU server, from its options to its listening socket.

Nothing else here knows the event loop's clock, the process, or which profiles there are.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from services import clock
from services.gpusim import speech
from services.gpusim.app import assemble
from services.gpusim.door import Door
from services.gpusim.gpu import Gpu
from services.gpusim.model import Options, ProfileName
from services.gpusim.profiles import (
    Profile,
    a1111,
    comfyui,
    openai,
    sdcpp,
    whisper,
    whisper_asr,
    whispercpp,
)

_LAST_ANSWERS_S = 0.05
"""How long answers that are under way may take when the server stops."""

_DEFAULT_MODEL = {
    ProfileName.SDCPP: sdcpp.MODEL,
    ProfileName.OPENAI: openai.MODEL,
    ProfileName.WHISPER: whisper.MODEL,
    ProfileName.WHISPERCPP: whispercpp.MODEL,
    ProfileName.WHISPER_ASR: whisper_asr.MODEL,
    ProfileName.A1111: a1111.MODEL,
    ProfileName.KOBOLDCPP: a1111.MODEL,
    ProfileName.COMFYUI: comfyui.MODEL,
    ProfileName.COMFYUI_OLD: comfyui.MODEL,
}


async def serve(
    options: Options,
    ready: Callable[[str], None] | None = None,
    die: Callable[[int], object] = os._exit,
) -> None:
    """Run one server until cancelled; `ready` is told its url once it listens.

    The fault `crash` calls `die` with the exit status; one that returns should cancel this.
    Raises OSError when the port cannot be had; it is taken at once, and listens after `startup_s`.
    """
    profile, gpu = _built(options, die)
    door = Door(options.host, options.port)
    runner = web.AppRunner(
        assemble(profile, gpu, door.shut),
        handler_cancellation=profile.notices_disconnect,
        shutdown_timeout=_LAST_ANSWERS_S,
        access_log=None,
    )
    await runner.setup()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(profile.run())
            await asyncio.sleep(options.startup_s)
            await door.open(runner)
            if ready is not None:
                ready(door.url)
            await door.tend()
    finally:
        await runner.cleanup()
        door.close()


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[str]:
    """Run a server beside the block, in this process, and give its url.

    The fault `crash` stops the server as abruptly as the death of its process would.
    """
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        server = group.create_task(
            serve(options, url.set_result, lambda _status: server.cancel()), name="gpusim"
        )
        try:
            yield await url
        finally:
            server.cancel()


def _built(options: Options, die: Callable[[int], object]) -> tuple[Profile, Gpu]:
    """Build the profile and its GPU. The clock tells Unix time and does not step back."""
    offset_s = clock.now().timestamp() - clock.monotonic()

    def unix_s() -> float:
        return offset_s + clock.monotonic()

    models = options.models or (_DEFAULT_MODEL[options.profile],)
    gpu = Gpu(options, models, unix_s, die)
    match options.profile:
        case ProfileName.SDCPP:
            return sdcpp.SdCpp(gpu, models[0]), gpu
        case ProfileName.OPENAI:
            return openai.OpenAI(gpu, models), gpu
        case ProfileName.WHISPER:
            return whisper.Whisper(gpu, models, speech.load), gpu
        case ProfileName.WHISPERCPP:
            return whispercpp.WhisperCpp(gpu, speech.load), gpu
        case ProfileName.WHISPER_ASR:
            return whisper_asr.WhisperAsr(gpu, speech.load), gpu
        case ProfileName.A1111 | ProfileName.KOBOLDCPP:
            return a1111.A1111(gpu, models), gpu
        case ProfileName.COMFYUI | ProfileName.COMFYUI_OLD:
            return comfyui.ComfyUI(gpu, models), gpu
