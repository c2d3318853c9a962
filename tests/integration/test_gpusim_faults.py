"""Every scripted fault, on every route that takes GPU work."""

import asyncio
import base64
import io
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientConnectorError, ClientSession, FormData
from PIL import Image, UnidentifiedImageError

from services.gpusim.control import Control
from services.gpusim.main import running
from services.gpusim.model import CRASHED, Fault, Options, Outcome, ProfileName
from tests import speech

COMFYUI = Path(__file__).parents[2] / "deploy" / "comfyui" / "text-to-image.json"

Ask = Callable[[ClientSession, str], Awaitable[tuple[int, str]]]
"""Ask for one job and give the status and the body of the final answer."""


async def ask_natively(session: ClientSession, url: str) -> tuple[int, str]:
    body = {"prompt": "a fox", "width": 64, "height": 64}
    async with session.post(f"{url}/sdcpp/v1/img_gen", json=body) as answer:
        if answer.status != 202:
            return answer.status, await answer.text()
        path = (await answer.json())["poll_url"]
    while True:
        async with session.get(url + path) as answer:
            job = await answer.text()
            if json.loads(job)["status"] not in {"queued", "generating"}:
                return answer.status, job


async def ask_for_image(session: ClientSession, url: str) -> tuple[int, str]:
    body = {"prompt": "a fox", "size": "64x64"}
    async with session.post(f"{url}/v1/images/generations", json=body) as answer:
        return answer.status, await answer.text()


async def ask_as_web_uis_do(session: ClientSession, url: str) -> tuple[int, str]:
    body = {"prompt": "a fox", "width": 64, "height": 64, "steps": 4}
    async with session.post(f"{url}/sdapi/v1/txt2img", json=body) as answer:
        return answer.status, await answer.text()


async def ask_for_text(session: ClientSession, url: str) -> tuple[int, str]:
    async with asyncio.timeout(30):
        while True:
            async with session.get(f"{url}/health") as answer:
                if answer.status == 200:
                    break
    form = FormData({"model": "Systran/faster-whisper-tiny.en"})
    form.add_field("file", speech.clip("0880"), filename="speech.wav")
    async with session.post(f"{url}/v1/audio/transcriptions", data=form) as answer:
        return answer.status, await answer.text(errors="replace")


async def ask_at_own_path(session: ClientSession, url: str) -> tuple[int, str]:
    form = FormData({"response_format": "verbose_json"})
    form.add_field("file", speech.clip("0880"), filename="speech.wav")
    async with session.post(f"{url}/inference", data=form) as answer:
        return answer.status, await answer.text(errors="replace")


async def ask_in_query(session: ClientSession, url: str) -> tuple[int, str]:
    form = FormData()
    form.add_field("audio_file", speech.clip("0880"), filename="speech.wav")
    async with session.post(f"{url}/asr?output=json", data=form) as answer:
        return answer.status, await answer.text(errors="replace")


async def ask_by_graph(session: ClientSession, url: str) -> tuple[int, str]:
    graph = json.loads(COMFYUI.read_text())["workflow"]
    graph["5"]["inputs"] |= {"width": 64, "height": 64}
    async with session.post(f"{url}/prompt", json={"prompt": graph}) as answer:
        if answer.status != 200:
            return answer.status, await answer.text()
        prompt_id = (await answer.json())["prompt_id"]
    history: dict[str, Any] = {}  # Any: as the server says it
    while not history:
        async with session.get(f"{url}/history/{prompt_id}") as answer:
            history = await answer.json()
    for image in history[prompt_id]["outputs"].get("9", {}).get("images", ()):
        async with session.get(f"{url}/view", params=image) as answer:
            return answer.status, json.dumps({"image": base64.b64encode(await answer.read()).decode()})
    return 200, json.dumps(history)


ROUTES: dict[str, tuple[ProfileName, Ask]] = {
    "sdcpp-native": (ProfileName.SDCPP, ask_natively),
    "sdcpp-openai": (ProfileName.SDCPP, ask_for_image),
    "openai": (ProfileName.OPENAI, ask_for_image),
    "a1111": (ProfileName.A1111, ask_as_web_uis_do),
    "koboldcpp": (ProfileName.KOBOLDCPP, ask_as_web_uis_do),
    "comfyui": (ProfileName.COMFYUI, ask_by_graph),
    "whisper": (ProfileName.WHISPER, ask_for_text),
    "whispercpp": (ProfileName.WHISPERCPP, ask_at_own_path),
    "whisper_asr": (ProfileName.WHISPER_ASR, ask_in_query),
}
SERVER_ERROR = {
    "sdcpp-native": (200, "generate_image returned no results"),
    "sdcpp-openai": (500, "generate_image returned no results"),
    "openai": (500, "Image generation failed"),
    "a1111": (500, "RuntimeError"),
    "koboldcpp": (500, "RuntimeError"),
    "comfyui": (200, "simulated server error"),
    "whisper": (500, "Internal Server Error"),
    "whispercpp": (500, "failed to process audio"),
    "whisper_asr": (500, "Internal Server Error"),
}

# Any: JSON of the shape that the route gives.
FIRST_IMAGE: dict[str, Callable[[Any], str]] = {
    "sdcpp-native": lambda answer: answer["result"]["images"][0]["b64_json"],
    "sdcpp-openai": lambda answer: answer["data"][0]["b64_json"],
    "openai": lambda answer: answer["data"][0]["b64_json"],
    "a1111": lambda answer: answer["images"][0],
    "koboldcpp": lambda answer: answer["images"][0],
    "comfyui": lambda answer: answer["image"],
}


class Bench:
    """A running server and one way to ask it for work."""

    def __init__(self, route: str, session: ClientSession, url: str) -> None:
        self.route = route
        self.session = session
        self.url = url
        self.control = Control(session, url)

    async def ask(self) -> tuple[int, str]:
        return await ROUTES[self.route][1](self.session, self.url)

    async def outcomes(self) -> list[Outcome]:
        return [job.outcome for job in await self.control.jobs()]

    async def until_running(self) -> None:
        async with asyncio.timeout(30):
            while not (await self.control.stats()).running:
                pass


async def server_error(bench: Bench) -> None:
    await bench.control.script(Fault.HTTP500)
    status, text = await bench.ask()
    expected, message = SERVER_ERROR[bench.route]
    assert status == expected
    assert message in text
    assert await bench.outcomes() == [Outcome.FAILED]


async def out_of_memory(bench: Bench) -> None:
    await bench.control.script(Fault.OOM)
    status, text = await bench.ask()
    assert status == SERVER_ERROR[bench.route][0]
    assert ("CUDA out of memory" in text) == (bench.route != "whisper_asr")  # which says nothing at all
    assert await bench.outcomes() == [Outcome.FAILED]


async def hang(bench: Bench) -> None:
    await bench.control.script(Fault.HANG)
    call = asyncio.ensure_future(bench.ask())
    await bench.until_running()
    assert not call.done()
    await bench.control.clear()
    assert (await call)[0] == 200
    await bench.control.script(Fault.HANG, seconds=0.05)
    assert (await bench.ask())[0] == 200
    assert await bench.outcomes() == [Outcome.DONE, Outcome.DONE]


async def slow(bench: Bench) -> None:
    await bench.control.script(Fault.SLOW, seconds=0.1)
    assert (await bench.ask())[0] == 200
    assert (await bench.control.stats()).busy_s >= 0.1


async def garbage(bench: Bench) -> None:
    await bench.control.script(Fault.GARBAGE)
    status, text = await bench.ask()
    assert status == 200
    assert await bench.outcomes() == [Outcome.DONE]
    if bench.route not in FIRST_IMAGE:
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
        return
    answer = json.loads(text)
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(base64.b64decode(FIRST_IMAGE[bench.route](answer))))


async def refuse(bench: Bench) -> None:
    await bench.control.script(Fault.REFUSE, seconds=0.2)
    refused = 0
    async with asyncio.timeout(10):
        while True:
            try:
                await bench.control.stats()
                break
            except ClientConnectorError:
                refused += 1
    assert refused
    assert (await bench.ask())[0] == 200


async def busy(bench: Bench) -> None:
    await bench.control.script(Fault.BUSY)
    status, text = await bench.ask()
    assert status == (429 if bench.route == "sdcpp-native" else 503)
    assert ("job queue is full" in text) == (bench.route == "sdcpp-native")
    assert await bench.outcomes() == [Outcome.REFUSED]
    assert (await bench.control.stats()).jobs.started == 0


async def crash(bench: Bench) -> None:
    await bench.control.script(Fault.CRASH)
    with pytest.raises(ClientConnectionError):
        await bench.ask()
    async with asyncio.timeout(10):
        while True:
            try:
                await bench.control.stats()
            except ClientConnectorError:
                break
            except ClientConnectionError:
                continue


STRIKES: dict[Fault, Callable[[Bench], Awaitable[None]]] = {
    Fault.HTTP500: server_error,
    Fault.OOM: out_of_memory,
    Fault.HANG: hang,
    Fault.SLOW: slow,
    Fault.GARBAGE: garbage,
    Fault.REFUSE: refuse,
    Fault.BUSY: busy,
    Fault.CRASH: crash,
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fault", Fault)
async def test_a_fault_strikes_one_job_in_the_manner_of_the_server(fault: Fault, route: str) -> None:
    options = Options(profile=ROUTES[route][0], step_ms=0)
    async with running(options) as url, ClientSession() as session:
        bench = Bench(route, session, url)
        await STRIKES[fault](bench)
        if fault is not Fault.CRASH:
            assert await bench.control.faults() == []
            assert (await bench.ask())[0] == 200


async def test_faults_strike_in_order_and_as_often_as_told() -> None:
    async with running(Options(profile=ProfileName.OPENAI, step_ms=0)) as url, ClientSession() as session:
        bench = Bench("openai", session, url)
        await bench.control.script(Fault.HTTP500, count=2)
        await bench.control.script(Fault.BUSY)
        assert [fault.count for fault in await bench.control.faults()] == [2, 1]
        assert [(await bench.ask())[0] for _ in range(4)] == [500, 500, 503, 200]


async def test_clearing_forgets_the_faults_that_wait() -> None:
    async with running(Options(profile=ProfileName.OPENAI, step_ms=0)) as url, ClientSession() as session:
        bench = Bench("openai", session, url)
        await bench.control.script(Fault.OOM, count=5)
        await bench.control.clear()
        assert (await bench.ask())[0] == 200


async def test_a_slow_job_takes_ten_times_as_long_unless_told_otherwise() -> None:
    options = Options(profile=ProfileName.SDCPP, step_ms=64, sigma=0)  # a job of 20 ms
    async with running(options) as url, ClientSession() as session:
        bench = Bench("sdcpp-native", session, url)
        await bench.control.script(Fault.SLOW)
        await bench.ask()
        assert (await bench.control.stats()).busy_s >= 0.2


@pytest.mark.parametrize("body", [b'{"mode":"meltdown"}', b"{}", b"{", b'{"mode":"oom","count":0}'])
async def test_a_fault_that_is_none_is_a_422_that_names_them_all(body: bytes) -> None:
    async with running(Options(profile=ProfileName.OPENAI, step_ms=0)) as url, ClientSession() as session:
        async with session.post(f"{url}/_sim/faults", data=body) as answer:
            assert answer.status == 422
            detail = (await answer.json())["detail"]
        assert all(fault in detail for fault in Fault)


PROGRAM = """
import asyncio
from services.gpusim.main import serve
from services.gpusim.model import Options, ProfileName
asyncio.run(serve(Options(profile=ProfileName.OPENAI, step_ms=0), lambda url: print(url, flush=True)))
"""


async def test_a_crash_is_the_death_of_the_process() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20), ClientSession() as session:
            url = (await process.stdout.readline()).decode().strip()
            await Control(session, url).script(Fault.CRASH)
            with pytest.raises(ClientConnectionError):
                await ask_for_image(session, url)
            assert await process.wait() == CRASHED
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
