"""Servers with OpenAI's image generation: vLLM-Omni, SGLang, LocalAI and their like.

The one rule: nothing is left to a default of the server, and nothing in a prompt is a command to it.
"""

import asyncio
from typing import Final

from msgspec import Struct

from schemas.requests import ImageRequest
from services.dispatcher.backends import images
from services.dispatcher.backends.base import Failed, Finished, Job
from services.dispatcher.backends.classify import (
    OK,
    Broken,
    bad_answer,
    decoded,
    no_success,
    said,
    wrong_kind,
)
from services.dispatcher.backends.oneshot import OneShotAdapter
from services.dispatcher.backends.prompts import disarmed

GENERATIONS: Final = "/v1/images/generations"
FETCH_TIMEOUT_S: Final = 60.0


class _Picture(Struct, frozen=True):
    b64_json: str | None = None
    url: str | None = None


class _Answer(Struct, frozen=True):
    data: tuple[_Picture, ...]


class OpenaiImagesAdapter(OneShotAdapter):
    """See the module."""

    async def attempt(self, job: Job) -> Finished | Failed:
        request = job.request
        if not isinstance(request, ImageRequest):
            return wrong_kind()
        answer = await self._endpoint.post(GENERATIONS, body(request, job.model))
        if isinstance(answer, Broken) or answer.status != OK:
            return no_success(answer)
        found = await asyncio.to_thread(_read, answer.body, request.seed)
        return found if isinstance(found, Finished | Failed) else await self._collected(found, request.seed)

    async def _collected(self, answer: _Answer, seed: int | None) -> Finished | Failed:
        """Take the pictures from the answer, or from where it says that they are."""
        pictures: list[str | bytes] = []
        for picture in answer.data:
            if picture.b64_json:
                pictures.append(picture.b64_json)
            elif picture.url:
                fetched = await self._endpoint.fetch(picture.url, FETCH_TIMEOUT_S)
                if isinstance(fetched, Broken) or fetched.status != OK:
                    return no_success(fetched)
                pictures.append(fetched.body)
        return await asyncio.to_thread(images.finished, pictures, seed)


def _read(content: bytes, seed: int | None) -> Finished | Failed | _Answer:
    """Read an answer to its end, or as far as one goes that gives addresses in place of pictures."""
    found = decoded(content, _Answer)
    if found is None:
        return bad_answer(f"the answer is no list of images: {said(content)}")
    if any(picture.url and not picture.b64_json for picture in found.data):
        return found
    return images.finished([picture.b64_json for picture in found.data if picture.b64_json], seed)


def body(request: ImageRequest, model: str | None) -> dict[str, object]:
    """Write the request. These servers know no sampler; guidance is what Qwen-Image calls true CFG."""
    wanted: dict[str, object] = {
        "prompt": disarmed(request.prompt),
        "n": request.n,
        "size": f"{request.width}x{request.height}",
        "response_format": "b64_json",
        "seed": request.seed,
        "num_inference_steps": request.steps,
    }
    if model is not None:
        wanted["model"] = model
    if request.negative_prompt:
        wanted["negative_prompt"] = request.negative_prompt
    if request.guidance is not None:
        wanted["true_cfg_scale"] = request.guidance
    return wanted
