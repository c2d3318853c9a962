"""What is said to an sd-server and how its answers read. Pure.

The one rule: sd-server checks nothing (it accepts ``{}``), so seed, size and steps are always sent.
"""

from typing import Final
from urllib.parse import quote

from msgspec import Raw, Struct

from schemas.events import ErrorClass
from schemas.requests import ImageRequest
from services.dispatcher.backends import images
from services.dispatcher.backends.base import Failed, Finished, failed
from services.dispatcher.backends.classify import (
    ACCEPTED,
    GONE,
    NOT_FOUND,
    OK,
    Broken,
    Reply,
    Trouble,
    bad_answer,
    decoded,
    job_failed,
    no_success,
)
from services.dispatcher.backends.polling import Unclear, unclear

CAPABILITIES: Final = "/sdcpp/v1/capabilities"
SUBMIT: Final = "/sdcpp/v1/img_gen"

COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
TERMINAL: Final = frozenset({COMPLETED, FAILED, CANCELLED})


class JobError(Struct, frozen=True):
    code: str = ""
    message: str = ""


class JobState(Struct, frozen=True):
    """A job as the server describes it; ``status`` is open, for what later versions may add."""

    status: str
    result: Raw = Raw(b"null")
    error: JobError | None = None


class _Accepted(Struct, frozen=True):
    id: str


class _Picture(Struct, frozen=True):
    b64_json: str
    index: int = 0


class _Result(Struct, frozen=True):
    images: tuple[_Picture, ...] = ()


class _Model(Struct, frozen=True):
    stem: str = ""
    name: str = ""


class _Capabilities(Struct, frozen=True):
    model: _Model


def job_path(remote_id: str) -> str:
    return f"/sdcpp/v1/jobs/{quote(remote_id, safe='')}"


def submission(request: ImageRequest) -> dict[str, object]:
    """Write the body of a submission; sampler and guidance are the server's own unless asked for."""
    sample: dict[str, object] = {"sample_steps": request.steps}
    if request.sampler is not None:
        sample["sample_method"] = request.sampler
    if request.guidance is not None:
        sample["guidance"] = {"txt_cfg": request.guidance}
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "width": request.width,
        "height": request.height,
        "seed": request.seed,
        "batch_count": request.n,
        "output_format": "png",
        "sample_params": sample,
    }


def accepted(answer: Reply | Broken) -> str | Failed:
    """Read the job's id from the answer to its submission."""
    if isinstance(answer, Broken) or answer.status not in (OK, ACCEPTED):
        return no_success(answer)
    found = decoded(answer.body, _Accepted)
    return found.id if found and found.id else bad_answer("the job was accepted without an id")


def understood(answer: Reply | Broken) -> JobState | Failed | Unclear:
    """Read what a poll says of the job: its state, that it is lost, or nothing."""
    match answer:
        case Broken():
            return unclear(answer)
        case Reply():
            if answer.status in (NOT_FOUND, GONE):
                return failed(ErrorClass.LOST, "job_lost", f"HTTP {answer.status}: the server lost the job")
            if answer.status != OK:
                return unclear(answer)
            state = decoded(answer.body, JobState)
            return state or Unclear(None, bad_answer("the job's state cannot be read"))


def result(state: JobState, seed: int | None) -> Finished | Failed:
    """Read the end of a job in a terminal state. Slow where there are pictures: to be run in a thread."""
    if state.status == COMPLETED:
        found = decoded(bytes(state.result), _Result)
        if found is None:
            return images.bad_image("the job's result cannot be read")
        pictures = sorted(found.images, key=lambda picture: picture.index)
        return images.finished([picture.b64_json for picture in pictures], seed)
    error = state.error or JobError(code=state.status)
    return job_failed(": ".join(filter(None, (error.code, error.message))))


def idle(answer: Reply | Broken) -> bool | None:
    """Say whether the job that was asked for no longer holds the GPU."""
    match answer:
        case Broken():
            # The process is gone, and its job with it; whoever is merely silent may be busy with it.
            return answer.trouble is Trouble.REFUSED
        case Reply():
            if answer.status in (NOT_FOUND, GONE):
                return True
            state = decoded(answer.body, JobState) if answer.status == OK else None
            return state.status in TERMINAL if state else None


def model_name(body: bytes) -> str | None:
    """Read the one model's name from capabilities: empty where not said, None where they are none."""
    found = decoded(body, _Capabilities)
    return (found.model.stem or found.model.name) if found else None
