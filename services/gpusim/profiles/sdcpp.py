"""stable-diffusion.cpp's `sd-server`: the native job API and the OpenAI route.

It never notices that a client went away, cannot stop a job that runs, and has no health route:
`GET /v1/models` is the probe.
"""

import base64
from collections.abc import Sequence

from aiohttp import web

from services.gpusim.gpu import Gpu, JobFailedError
from services.gpusim.painting import MAX_SIDE, batch, paint
from services.gpusim.profiles import reply
from services.gpusim.profiles.sdcpp_jobs import MAX_PENDING, JobQueue, NativeJob, Status
from services.gpusim.profiles.sdcpp_request import (
    DEFAULT_SIDE,
    DEFAULT_STEPS,
    MAX_BATCH,
    SIDE_UNIT,
    RequestError,
    native,
    openai,
    parse,
    picture,
)

MODEL = "qwen-image-Q8_0.gguf"

_FULL = {"error": "job queue is full"}
_FEATURES = {"init_image": False, "lora": False, "cancel_queued": True, "cancel_generating": False}
_SAMPLERS = ("euler", "euler_a", "heun", "dpm2", "dpm++2m", "ipndm", "lcm")
_SCHEDULERS = ("discrete", "normal", "karras", "exponential", "simple")


class SdCpp:
    """See the module."""

    notices_disconnect = False

    def __init__(self, gpu: Gpu, model: str) -> None:
        self._gpu = gpu
        self._model = model
        self._jobs = JobQueue(gpu)

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/v1/models", self._list_models),
            web.post("/v1/images/generations", self._generate),
            web.get("/sdcpp/v1/capabilities", self._capabilities),
            web.post("/sdcpp/v1/img_gen", self._submit),
            web.get("/sdcpp/v1/jobs/{id}", self._job),
            web.post("/sdcpp/v1/jobs/{id}/cancel", self._cancel),
        ]

    def unauthorized(self, _path: str) -> web.Response | None:
        """Stand in for the proxy in front: the real server knows no keys."""
        return reply({"error": "Unauthorized"}, 401)

    def missing(self, _status: int) -> web.Response:
        return web.Response(status=404)

    async def run(self) -> None:
        await self._jobs.run()

    async def _list_models(self, _request: web.Request) -> web.Response:
        """Name the model as the real server does, whichever it is."""
        card = {"id": "sd-cpp-local", "object": "model", "owned_by": "local"}
        return reply({"data": [card]})

    async def _capabilities(self, _request: web.Request) -> web.Response:
        defaults = {
            "width": DEFAULT_SIDE,
            "height": DEFAULT_SIDE,
            "seed": -1,
            "batch_count": 1,
            "sample_params": {"sample_steps": DEFAULT_STEPS},
            "output_format": "png",
        }
        stem = self._model.rpartition(".")[0] or self._model
        limits = {"max_batch_count": MAX_BATCH, "max_queue_size": MAX_PENDING}
        for side in ("width", "height"):
            limits |= {f"min_{side}": SIDE_UNIT, f"max_{side}": MAX_SIDE}
        return reply(
            {
                "model": {"name": self._model, "stem": stem, "path": self._model},
                "current_mode": "img_gen",
                "supported_modes": ["img_gen"],
                "defaults": defaults,
                "defaults_by_mode": {"img_gen": defaults},
                "limits": limits,
                "samplers": _SAMPLERS,
                "schedulers": _SCHEDULERS,
                "output_formats": ["png", "jpeg"],
                "output_formats_by_mode": {"img_gen": ["png", "jpeg"]},
                "features": _FEATURES,
                "features_by_mode": {"img_gen": _FEATURES},
                "loras": [],
            }
        )

    async def _generate(self, http: web.Request) -> web.Response:
        try:
            wanted = openai(parse(await http.read()))
        except RequestError as error:
            return reply(error.body, error.status)
        drawn = picture(wanted, self._gpu.draw_seed() if wanted.seed is None else wanted.seed)
        job = self._gpu.admit(prompt=drawn.prompt, seed=drawn.seed)
        if job is None:
            return reply({"error": "server is busy"}, 503)
        try:
            pictures = batch(drawn, wanted.count)
            images = await paint(self._gpu, job, pictures, wanted.image_format)
        except JobFailedError as error:
            if error.out_of_memory:
                return reply({"error": "server_error", "message": str(error)}, 500)
            return reply({"error": "generate_image returned no results"}, 500)
        data = [{"b64_json": base64.b64encode(image).decode()} for image in images]
        created = int(self._gpu.clock())
        return reply({"created": created, "data": data, "output_format": wanted.image_format})

    async def _submit(self, http: web.Request) -> web.Response:
        try:
            wanted = native(parse(await http.read()))
        except RequestError as error:
            return reply(error.body, error.status)
        if self._jobs.is_full:
            self._gpu.turn_away(wanted.prompt)
            return reply(_FULL, 429)
        drawn = picture(wanted, self._gpu.draw_seed() if wanted.seed is None else wanted.seed)
        work = self._gpu.admit(prompt=drawn.prompt, seed=drawn.seed)
        if work is None:
            return reply(_FULL, 429)
        job = self._jobs.add(work, drawn, wanted.count, wanted.image_format)
        accepted = {
            "id": job.id,
            "kind": "img_gen",
            "status": job.status,
            "created": int(job.created),
            "poll_url": f"/sdcpp/v1/jobs/{job.id}",
        }
        return reply(accepted, 202)

    async def _job(self, http: web.Request) -> web.Response:
        job = self._jobs.find(http.match_info["id"])
        if job is None:
            return self._unknown(http.match_info["id"])
        return reply(self._jobs.document(job))

    async def _cancel(self, http: web.Request) -> web.Response:
        job = self._jobs.find(http.match_info["id"])
        if job is None:
            return self._unknown(http.match_info["id"])
        if job.status is Status.GENERATING:
            message = "job is currently generating and cannot be interrupted yet"
            return reply({"error": message}, 409)
        return reply(self._jobs.document(self._cancelled(job)))

    def _cancelled(self, job: NativeJob) -> NativeJob:
        return self._jobs.cancel(job) if job.status is Status.QUEUED else job

    def _unknown(self, job_id: str) -> web.Response:
        if self._jobs.has_expired(job_id):
            return reply({"error": "job expired"}, 410)
        return reply({"error": "job not found"}, 404)
