"""vLLM-Omni's image server: OpenAI's image generation with the knobs of diffusion.

A client that goes away frees the GPU. A model that is not the server's is answered all the same.
"""

import base64
import io
import re
import zipfile
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from services.gpusim.gpu import Gpu, JobFailedError
from services.gpusim.painting import batch, paint, within_limits
from services.gpusim.picture import Picture
from services.gpusim.profiles import detail, fastapi_missing, reply, unprocessable

MODEL = "Qwen/Qwen-Image"
DEFAULT_SIZE = "1024x1024"
DEFAULT_STEPS = 50

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class _ImageRequest(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str
    model: str | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1
    size: str | None = None
    response_format: Literal["b64_json", "file"] = "b64_json"
    negative_prompt: str | None = None
    num_inference_steps: Annotated[int, msgspec.Meta(ge=1, le=200)] | None = None
    guidance_scale: Annotated[float, msgspec.Meta(ge=0, le=20)] | None = None
    true_cfg_scale: Annotated[float, msgspec.Meta(ge=0, le=20)] | None = None
    seed: int | None = None
    output_format: Literal["png", "jpeg"] | None = None


class OpenAI:
    """See the module."""

    notices_disconnect = True

    def __init__(self, gpu: Gpu, models: Sequence[str]) -> None:
        self._gpu = gpu
        self._models = models
        self._created = int(gpu.clock())

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post("/v1/images/generations", self._generate),
            web.get("/v1/models", self._list_models),
            web.get("/health", self._health),
        ]

    def unauthorized(self, path: str) -> web.Response | None:
        return reply({"error": "Unauthorized"}, 401) if path.startswith("/v1") else None

    def missing(self, status: int) -> web.Response:
        return fastapi_missing(status)

    async def run(self) -> None:
        return

    async def _health(self, _request: web.Request) -> web.Response:
        return reply({"status": "healthy"})

    async def _list_models(self, _request: web.Request) -> web.Response:
        cards = [
            {"id": name, "object": "model", "created": self._created, "owned_by": "vllm"}
            for name in self._models
        ]
        return reply({"object": "list", "data": cards})

    async def _generate(self, http: web.Request) -> web.Response:
        try:
            request = msgspec.json.decode(await http.read(), type=_ImageRequest)
        except msgspec.DecodeError as error:  # a ValidationError is one too
            return unprocessable(["body"], str(error))
        size = _SIZE.fullmatch(request.size or DEFAULT_SIZE)
        if size is None:
            message = "size must be in format 'WIDTHxHEIGHT' (e.g., '1024x1024')"
            return unprocessable(["body", "size"], message)
        seed = self._gpu.draw_seed() if request.seed is None else request.seed
        picture = Picture(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt or "",
            seed=seed,
            width=int(size[1]),
            height=int(size[2]),
            steps=request.num_inference_steps or DEFAULT_STEPS,
        )
        if not within_limits(picture):
            return detail(f"Invalid size: {request.size}", 400)
        return await self._run(request, picture)

    async def _run(self, request: _ImageRequest, picture: Picture) -> web.Response:
        model = request.model if request.model in self._models else self._models[0]
        job = self._gpu.admit(prompt=picture.prompt, seed=picture.seed, model=model)
        if job is None:
            return detail("The engine is overloaded", 503)
        output_format = request.output_format or "png"
        try:
            images = await paint(self._gpu, job, batch(picture, request.n), output_format)
        except JobFailedError as error:
            return detail(f"Image generation failed: {error}", 500)
        if request.response_format == "file":
            return _file(images, output_format)
        data = [
            {"b64_json": base64.b64encode(image).decode(), "url": None, "revised_prompt": None}
            for image in images
        ]
        size = f"{picture.width}x{picture.height}"
        created = int(self._gpu.clock())
        return reply({"created": created, "data": data, "output_format": output_format, "size": size})


def _file(images: Sequence[bytes], output_format: str) -> web.Response:
    """Give one image as it is, several as an archive."""
    if len(images) == 1:
        headers = {"Content-Disposition": f'attachment; filename="image.{output_format}"'}
        return web.Response(body=images[0], content_type=f"image/{output_format}", headers=headers)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for index, image in enumerate(images):
            archive.writestr(f"image_{index}.{output_format}", image)
    headers = {"Content-Disposition": 'attachment; filename="images.zip"'}
    return web.Response(body=packed.getvalue(), content_type="application/zip", headers=headers)
