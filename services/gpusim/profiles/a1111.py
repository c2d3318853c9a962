"""AUTOMATIC1111's web UI, Forge and KoboldCpp: what they share under `/sdapi/v1`.

One job at a time and the others hang, a client that goes away frees nothing, and an interruption strikes
whatever runs, which then succeeds with the picture that it has. KoboldCpp knows no progress and no
interruption, has one model, and lists a model of language besides.
"""

import asyncio
import base64
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from services.gpusim.gpu import Gpu, JobFailedError, Turn
from services.gpusim.model import ProfileName
from services.gpusim.painting import batch, paint, within_limits
from services.gpusim.picture import Picture, preview
from services.gpusim.profiles import detail, fastapi_missing, reply, unprocessable

MODEL = "sd_xl_base_1.0"
SAMPLERS = ("Euler", "Euler a", "Heun", "LMS", "DPM++ 2M", "DPM++ SDE", "DDIM", "UniPC")

SHOWN_EVERY = 10
"""Steps between what `current_image` shows, as the real one's settings have it."""

_LANGUAGE_MODEL = "koboldcpp/llama"

# Any: JSON of any shape, echoed or looked at member by member.
Json = Any

_NOTHING: dict[str, Json] = {
    "progress": 0.0,
    "eta_relative": 0.0,
    "current_image": None,
    "textinfo": None,
    "current_task": None,  # as in the real one, which reads the name once, at its start
}
_IDLE: dict[str, Json] = {
    "skipped": False,
    "interrupted": False,
    "job": "",
    "job_count": 0,
    "job_no": 0,
    "sampling_step": 0,
    "sampling_steps": 0,
}


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    steps: int = 50
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    batch_size: int = 1
    n_iter: int = 1
    sampler_name: str | None = None
    send_images: bool = True
    override_settings: dict[str, Json] | None = None
    force_task_id: str | None = None

    @property
    def count(self) -> int:
        return self.n_iter * self.batch_size

    def picture(self, seed: int) -> Picture:
        return Picture(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seed=seed,
            width=self.width,
            height=self.height,
            steps=self.steps,
        )


class _Task(msgspec.Struct, frozen=True):
    id_task: str


class A1111:
    """See the module."""

    notices_disconnect = False

    def __init__(self, gpu: Gpu, models: Sequence[str]) -> None:
        self._gpu = gpu
        self._whole = gpu.options.profile is ProfileName.A1111
        self._models = models if self._whole else models[:1]
        self._checkpoint = models[0]
        self._present: dict[int, _Request] = {}
        self._finished: deque[str | None] = deque(maxlen=16)

    def routes(self) -> Sequence[web.RouteDef]:
        shared = [
            web.post("/sdapi/v1/txt2img", self._txt2img),
            web.get("/sdapi/v1/samplers", self._samplers),
            web.get("/sdapi/v1/sd-models", self._sd_models),
            web.get("/sdapi/v1/options", self._options),
        ]
        if not self._whole:
            return [*shared, web.get("/v1/models", self._language_models)]
        return [
            *shared,
            web.post("/sdapi/v1/options", self._set_options),
            web.get("/sdapi/v1/progress", self._progress),
            web.post("/internal/progress", self._standing),
            web.post("/sdapi/v1/interrupt", self._interrupt),
            web.post("/sdapi/v1/skip", self._skip),
        ]

    def unauthorized(self, _path: str) -> web.Response | None:
        return _error("HTTPException", 401, detail="Incorrect username or password")

    def missing(self, status: int) -> web.Response:
        return fastapi_missing(status)

    async def run(self) -> None:
        return

    async def _txt2img(self, http: web.Request) -> web.Response:
        body = await http.read()
        try:
            request = msgspec.json.decode(body, type=_Request, strict=False)
        except msgspec.DecodeError as error:  # a ValidationError is one too
            return unprocessable(["body"], str(error))
        if self._whole and request.sampler_name not in (None, *SAMPLERS):
            return _error("HTTPException", 404, detail="Sampler not found")
        picture = request.picture(self._gpu.draw_seed() if request.seed < 0 else request.seed)
        if not within_limits(picture) or request.count < 1:
            return _error("RuntimeError", 500, errors="the picture cannot be drawn")
        images = await self._run(request, picture)
        if isinstance(images, web.Response):
            return images
        info = _info(request, picture, self._model_of(request)) if self._whole else ""
        shown = [base64.b64encode(image).decode() for image in images] if request.send_images else []
        return reply({"images": shown, "parameters": msgspec.json.decode(body), "info": info})

    async def _run(self, request: _Request, picture: Picture) -> list[bytes] | web.Response:
        model = self._model_of(request)
        job = self._gpu.admit(prompt=picture.prompt, seed=picture.seed, model=model)
        if job is None:
            return detail("Server is busy; please try again later.", 503)
        self._present[job.id] = request
        try:
            return await paint(self._gpu, job, batch(picture, request.count), "png")
        except JobFailedError as error:
            kind = "OutOfMemoryError" if error.out_of_memory else "RuntimeError"
            return _error(kind, 500, errors=str(error))
        finally:
            del self._present[job.id]
            self._finished.append(request.force_task_id)

    def _model_of(self, request: _Request) -> str:
        """Take the model asked for, for this job only; one that is not there is ignored."""
        wanted = (request.override_settings or {}).get("sd_model_checkpoint")
        return wanted if isinstance(wanted, str) and wanted in self._models else self._checkpoint

    async def _progress(self, http: web.Request) -> web.Response:
        """Say how far the job is, and show it unless that is not wanted."""
        turn = self._gpu.current
        if turn is None:
            return reply({**_NOTHING, "state": _IDLE})
        request = self._present[turn.job.id]
        progress = min(1.0, 0.01 + turn.step / (request.steps * request.count))
        elapsed_s = self._gpu.clock() - (turn.job.started_at or 0.0)
        running = {
            "progress": progress,
            "eta_relative": elapsed_s / progress - elapsed_s,
            "state": _state(turn, request),
            "current_image": None if _skips(http) else await self._current_image(turn, request),
        }
        return reply({**_NOTHING, **running})

    async def _current_image(self, turn: Turn, request: _Request) -> str | None:
        """Show the picture that is being drawn, as it was a while ago; null before there is any."""
        number, step = divmod(turn.step, request.steps)
        step -= step % SHOWN_EVERY
        if not step or not self._gpu.options.previews:
            return None
        picture = request.picture((turn.job.seed or 0) + number)
        return base64.b64encode(await asyncio.to_thread(preview, picture, step)).decode()

    async def _standing(self, http: web.Request) -> web.Response:
        """Say where the task of this id stands."""
        try:
            wanted = msgspec.json.decode(await http.read(), type=_Task).id_task
        except msgspec.DecodeError as error:
            return unprocessable(["body"], str(error))
        turn = self._gpu.current
        active = turn is not None and self._present[turn.job.id].force_task_id == wanted
        present = any(request.force_task_id == wanted for request in self._present.values())
        return reply(
            {"active": active, "queued": present and not active, "completed": wanted in self._finished}
        )

    async def _interrupt(self, _http: web.Request) -> web.Response:
        """Stop what runs, whoever asked for it."""
        if self._gpu.current is not None:
            self._gpu.current.interrupted = True
        return reply({})

    async def _skip(self, _http: web.Request) -> web.Response:
        """Stop the picture that is being drawn; here a job is one picture, so it is all of it."""
        await self._interrupt(_http)
        return reply(None)

    async def _samplers(self, _http: web.Request) -> web.Response:
        return reply([{"name": name, "aliases": [], "options": {}} for name in SAMPLERS])

    async def _sd_models(self, _http: web.Request) -> web.Response:
        return reply(
            [
                {
                    "title": _title(name),
                    "model_name": name,
                    "hash": None,
                    "sha256": None,
                    "filename": f"models/Stable-diffusion/{name}.safetensors",
                    "config": None,
                }
                for name in self._models
            ]
        )

    async def _options(self, _http: web.Request) -> web.Response:
        return reply({"samples_format": "png", "sd_model_checkpoint": _title(self._checkpoint)})

    async def _set_options(self, http: web.Request) -> web.Response:
        """Choose the model of the jobs that ask for none."""
        try:
            options = msgspec.json.decode(await http.read(), type=dict[str, Json])
        except msgspec.DecodeError as error:
            return unprocessable(["body"], str(error))
        named = {name: name for name in self._models} | {_title(name): name for name in self._models}
        wanted = options.get("sd_model_checkpoint", self._checkpoint)
        if wanted not in named:
            return _error("RuntimeError", 500, errors=f"model {wanted!r} not found")
        self._checkpoint = named[wanted]
        return reply(None)

    async def _language_models(self, _http: web.Request) -> web.Response:
        card = {"id": _LANGUAGE_MODEL, "object": "model", "owned_by": "koboldcpp"}
        return reply({"object": "list", "data": [card]})


def _skips(http: web.Request) -> bool:
    return http.query.get("skip_current_image", "false").lower() in {"true", "1", "on", "yes", "t", "y"}


def _title(name: str) -> str:
    return f"{name}.safetensors"


def _error(kind: str, status: int, *, detail: str = "", errors: str = "") -> web.Response:
    """Answer as the web UI does for every exception."""
    return reply({"error": kind, "detail": detail, "body": "", "errors": errors}, status)


def _info(request: _Request, picture: Picture, model: str) -> str:
    """Describe what was drawn: JSON in a string."""
    seeds = [picture.seed + offset for offset in range(request.count)]
    described = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": picture.seed,
        "all_seeds": seeds,
        "width": picture.width,
        "height": picture.height,
        "sampler_name": request.sampler_name or SAMPLERS[0],
        "cfg_scale": request.cfg_scale,
        "steps": picture.steps,
        "sd_model_name": model,
    }
    return msgspec.json.encode(described).decode()


def _state(turn: Turn, request: _Request) -> dict[str, Json]:
    """Describe the job that runs; while its model is loaded, it counts as -1 jobs."""
    number, step = divmod(turn.step, request.steps)
    return _IDLE | {
        "interrupted": turn.interrupted,
        "job": "scripts_txt2img",
        "job_count": -1 if turn.loading else request.count,
        "job_no": number,
        "sampling_step": step,
        "sampling_steps": 0 if turn.loading else request.steps,
    }
