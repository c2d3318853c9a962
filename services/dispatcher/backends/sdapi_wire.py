"""What is said to servers with the routes of AUTOMATIC1111's web UI, and how their answers read. Pure.

The one rule: one picture a request. Of several, the first may be a grid of the others.
"""

from typing import Final

from msgspec import Struct

from schemas import previews
from schemas.requests import ImageRequest
from services.dispatcher.backends import images
from services.dispatcher.backends.base import Failed, Previewed, Progressed
from services.dispatcher.backends.classify import (
    NOT_FOUND,
    OK,
    Broken,
    Reply,
    Trouble,
    bad_answer,
    decoded,
    said,
)
from services.dispatcher.backends.prompts import disarmed

TXT2IMG: Final = "/sdapi/v1/txt2img"
PROGRESS: Final = "/sdapi/v1/progress?skip_current_image=true"
PICTURED: Final = "/sdapi/v1/progress?skip_current_image=false"
TASK: Final = "/internal/progress"
INTERRUPT: Final = "/sdapi/v1/interrupt"
SAMPLERS: Final = "/sdapi/v1/samplers"
CHECKPOINTS: Final = "/sdapi/v1/sd-models"

_NO_ROUTE: Final = frozenset({NOT_FOUND, 405, 501})
_MAX_ENCODED: Final = previews.MAX_BYTES * 4 // 3 + 64  # with what a data: url begins with


class State(Struct, frozen=True):
    """``job_count`` is -1 until the job that runs begins to draw."""

    job_count: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0
    interrupted: bool = False


class Seen(Struct, frozen=True):
    """What the server says of the one job that runs; its ``current_task`` is null whoever's that is."""

    progress: float
    state: State = State()
    current_image: str | None = None

    @property
    def busy(self) -> bool:
        return self.state.job_count != 0 or self.progress > 0


class _Standing(Struct, frozen=True):
    """Where a task stands that the server knows by its id."""

    active: bool
    queued: bool = False
    completed: bool = False


class _Named(Struct, frozen=True):
    name: str


class _Checkpoint(Struct, frozen=True):
    model_name: str = ""
    title: str = ""


class _Answer(Struct, frozen=True):
    images: tuple[str, ...]


def body(request: ImageRequest, model: str | None, task_id: str, number: int) -> dict[str, object]:
    """Write the request for picture ``number``; sampler and guidance are the server's unless asked for."""
    wanted: dict[str, object] = {
        "prompt": disarmed(request.prompt),
        "negative_prompt": request.negative_prompt,
        "seed": None if request.seed is None else request.seed + number,
        "steps": request.steps,
        "width": request.width,
        "height": request.height,
        "batch_size": 1,
        "n_iter": 1,
        "send_images": True,
        "save_images": False,
        "force_task_id": task_id,
    }
    if request.guidance is not None:
        wanted["cfg_scale"] = request.guidance
    if request.sampler is not None:
        wanted["sampler_name"] = request.sampler
    if model is not None:
        wanted["override_settings"] = {"sd_model_checkpoint": model}
    return wanted


def picture(body: bytes) -> str | Failed:
    """Read the picture, in base64. Slow: to be run in a thread."""
    found = decoded(body, _Answer)
    if found is None:
        return bad_answer(f"the answer is no list of images: {said(body)}")
    return found.images[0] if found.images else bad_answer("the answer holds no image")


def has_no_route(answer: Reply | Broken) -> bool:
    return isinstance(answer, Reply) and answer.status in _NO_ROUTE


def seen(answer: Reply | Broken) -> Seen | None:
    """Read what runs; None where the answer does not say."""
    if isinstance(answer, Broken) or answer.status != OK:
        return None
    return decoded(answer.body, Seen)


def runs(answer: Reply | Broken) -> bool | None:
    """Say whether the task that was asked for is what runs; None where the server does not know it."""
    standing = _standing(answer)
    return standing.active if standing else None


def gone(answer: Reply | Broken) -> bool | None:
    """Say whether the task that was asked for has left the GPU; None where the server does not know it."""
    standing = _standing(answer)
    return not (standing.active or standing.queued) if standing else None


def _standing(answer: Reply | Broken) -> _Standing | None:
    if isinstance(answer, Broken) or answer.status != OK:
        return None
    found = decoded(answer.body, _Standing)
    return found if found and (found.active or found.queued or found.completed) else None


def progressed(found: Seen, number: int, of: int) -> Progressed:
    """Say how far ``of`` pictures are while picture ``number`` is drawn."""
    fraction = (number + min(1.0, max(0.0, found.progress))) / of
    step, steps = found.state.sampling_step, found.state.sampling_steps
    if steps <= 0:
        return Progressed(fraction=fraction)
    return Progressed(fraction=fraction, step=number * steps + step, steps=of * steps)


def previewed(found: Seen) -> Previewed | None:
    """Give the picture that came along; None where the server shows none, or one that is too large."""
    encoded = found.current_image
    if not encoded or len(encoded) > _MAX_ENCODED:
        return None
    image = images.decoded(encoded)
    return None if isinstance(image, Failed) else Previewed(image)


def idle(answer: Reply | Broken) -> bool | None:
    """Say whether nothing runs; what runs may be anybody's, and then nobody knows."""
    if isinstance(answer, Broken):
        return True if answer.trouble is Trouble.REFUSED else None
    found = seen(answer)
    return True if found is not None and not found.busy else None


def speaks_sdapi(answer: Reply) -> bool:
    """Whether it is a list of samplers."""
    return answer.status == OK and decoded(answer.body, tuple[_Named, ...]) is not None


def checkpoints(body: bytes) -> tuple[str, ...]:
    """Read the names of the models; empty where it is no such answer."""
    listed = decoded(body, tuple[_Checkpoint, ...]) or ()
    return tuple(name for each in listed if (name := each.model_name or each.title))
