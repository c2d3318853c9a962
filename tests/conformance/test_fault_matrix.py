"""Every fault that the simulator can play, through every adapter. The one rule: no cell is missing."""

import asyncio
from itertools import product

import aiohttp
import pytest
from yarl import URL

from schemas.events import ErrorClass
from schemas.registry import Protocol
from services.dispatcher.backends.base import Failed, Finished
from services.gpusim.model import Fault
from tests.conformance.rigs import (
    SimulatorRig,
    end,
    eventually,
    failed,
    finished,
    job,
    ready_model,
    simulated,
)

SUCCESS = "success"
SHORT_S = 0.3

ERROR = (ErrorClass.TRANSIENT, "backend_error")
OUT_OF_MEMORY = (ErrorClass.TRANSIENT, "backend_oom")
BAD_IMAGE = (ErrorClass.TRANSIENT, "bad_image")
BAD_TRANSCRIPT = (ErrorClass.TRANSIENT, "bad_transcript")
LOST = (ErrorClass.TRANSIENT, "connection_lost")
DOWN = (ErrorClass.BACKEND_DOWN, "connection_refused")
BUSY = (ErrorClass.OVERLOADED, "backend_busy")
CANCELLED = (ErrorClass.PERMANENT, "cancelled")

EXPECTED = {
    (Protocol.SDCPP, Fault.HTTP500): ERROR,
    (Protocol.SDCPP, Fault.OOM): OUT_OF_MEMORY,
    (Protocol.SDCPP, Fault.HANG): CANCELLED,
    (Protocol.SDCPP, Fault.SLOW): SUCCESS,
    (Protocol.SDCPP, Fault.GARBAGE): BAD_IMAGE,
    (Protocol.SDCPP, Fault.REFUSE): DOWN,
    (Protocol.SDCPP, Fault.BUSY): BUSY,
    (Protocol.SDCPP, Fault.CRASH): LOST,
    (Protocol.OPENAI_IMAGES, Fault.HTTP500): ERROR,
    (Protocol.OPENAI_IMAGES, Fault.OOM): OUT_OF_MEMORY,
    (Protocol.OPENAI_IMAGES, Fault.HANG): CANCELLED,
    (Protocol.OPENAI_IMAGES, Fault.SLOW): SUCCESS,
    (Protocol.OPENAI_IMAGES, Fault.GARBAGE): BAD_IMAGE,
    (Protocol.OPENAI_IMAGES, Fault.REFUSE): DOWN,
    (Protocol.OPENAI_IMAGES, Fault.BUSY): BUSY,
    (Protocol.OPENAI_IMAGES, Fault.CRASH): LOST,
    (Protocol.SDAPI, Fault.HTTP500): ERROR,
    (Protocol.SDAPI, Fault.OOM): OUT_OF_MEMORY,
    (Protocol.SDAPI, Fault.HANG): CANCELLED,
    (Protocol.SDAPI, Fault.SLOW): SUCCESS,
    (Protocol.SDAPI, Fault.GARBAGE): BAD_IMAGE,
    (Protocol.SDAPI, Fault.REFUSE): DOWN,
    (Protocol.SDAPI, Fault.BUSY): BUSY,
    (Protocol.SDAPI, Fault.CRASH): LOST,
    (Protocol.COMFYUI, Fault.HTTP500): ERROR,
    (Protocol.COMFYUI, Fault.OOM): OUT_OF_MEMORY,
    (Protocol.COMFYUI, Fault.HANG): CANCELLED,
    (Protocol.COMFYUI, Fault.SLOW): SUCCESS,
    (Protocol.COMFYUI, Fault.GARBAGE): BAD_IMAGE,
    (Protocol.COMFYUI, Fault.REFUSE): DOWN,
    (Protocol.COMFYUI, Fault.BUSY): BUSY,
    (Protocol.COMFYUI, Fault.CRASH): LOST,
    (Protocol.OPENAI_STT, Fault.HTTP500): ERROR,
    (Protocol.OPENAI_STT, Fault.OOM): OUT_OF_MEMORY,
    (Protocol.OPENAI_STT, Fault.HANG): CANCELLED,
    (Protocol.OPENAI_STT, Fault.SLOW): SUCCESS,
    (Protocol.OPENAI_STT, Fault.GARBAGE): BAD_TRANSCRIPT,
    (Protocol.OPENAI_STT, Fault.REFUSE): DOWN,
    (Protocol.OPENAI_STT, Fault.BUSY): BUSY,
    (Protocol.OPENAI_STT, Fault.CRASH): LOST,
    (Protocol.WHISPERCPP, Fault.HTTP500): ERROR,
    (Protocol.WHISPERCPP, Fault.OOM): OUT_OF_MEMORY,
    (Protocol.WHISPERCPP, Fault.HANG): CANCELLED,
    (Protocol.WHISPERCPP, Fault.SLOW): SUCCESS,
    (Protocol.WHISPERCPP, Fault.GARBAGE): BAD_TRANSCRIPT,
    (Protocol.WHISPERCPP, Fault.REFUSE): DOWN,
    (Protocol.WHISPERCPP, Fault.BUSY): BUSY,
    (Protocol.WHISPERCPP, Fault.CRASH): LOST,
    (Protocol.WHISPER_ASR, Fault.HTTP500): ERROR,
    (Protocol.WHISPER_ASR, Fault.OOM): ERROR,
    (Protocol.WHISPER_ASR, Fault.HANG): CANCELLED,
    (Protocol.WHISPER_ASR, Fault.SLOW): SUCCESS,
    (Protocol.WHISPER_ASR, Fault.GARBAGE): BAD_TRANSCRIPT,
    (Protocol.WHISPER_ASR, Fault.REFUSE): DOWN,
    (Protocol.WHISPER_ASR, Fault.BUSY): BUSY,
    (Protocol.WHISPER_ASR, Fault.CRASH): LOST,
}

EVERY = tuple(product(Protocol, Fault))


def test_the_matrix_has_no_hole() -> None:
    assert set(EXPECTED) == set(EVERY)


@pytest.mark.parametrize(("protocol", "fault"), [cell for cell in EVERY if cell[1] is not Fault.CRASH])
async def test_a_fault_ends_as_expected_and_the_next_job_is_well(
    session: aiohttp.ClientSession, protocol: Protocol, fault: Fault
) -> None:
    async with simulated(session, protocol) as rig:
        await rig.control.script(fault, seconds=SHORT_S if fault in (Fault.SLOW, Fault.REFUSE) else None)
        ended = await (_released(rig) if fault is Fault.HANG else end(rig.adapter.call(job(rig))))
        assert _outcome(ended) == EXPECTED[protocol, fault]
        await ready_model(rig.adapter)
        await finished(rig.adapter.call(job(rig)))


@pytest.mark.parametrize("protocol", Protocol)
async def test_a_crash_ends_as_expected_and_the_next_process_takes_jobs(
    session: aiohttp.ClientSession, protocol: Protocol
) -> None:
    async with simulated(session, protocol) as rig:
        await rig.control.script(Fault.CRASH)
        ended = await end(rig.adapter.call(job(rig)))
        assert _outcome(ended) == EXPECTED[protocol, Fault.CRASH]
        port = URL(rig.url).port
    async with simulated(session, protocol, port or 0) as again:
        await finished(again.adapter.call(job(again)))


async def _released(rig: SimulatorRig) -> Failed:
    """Hang until the call was stopped and the simulator let the job go."""
    call = rig.adapter.call(job(rig))
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(failed(call))
        await rig.held()
        assert not ending.done()
        await call.stop()
        if not rig.hangs_up:
            await eventually(rig.busy)
            assert not ending.done()
        await rig.release()
    return ending.result()


def _outcome(ended: Finished | Failed) -> str | tuple[ErrorClass, str]:
    match ended:
        case Finished():
            return SUCCESS
        case Failed():
            return ended.error.error_class, ended.error.code
