"""From what a backend gave to what TaskDone says: outputs stored first, as artifacts.

The one rule: an event names bytes only once they are stored.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Final

from msgspec.structs import replace

from schemas.errors import TaskfoldError
from schemas.events import MAX_TEXT, Artifact, TaskDone, Usage
from schemas.ids import ArtifactId, artifact_id
from schemas.requests import Request, SpeechRequest
from services import clock
from services.artifacts import ArtifactStore, endings
from services.dispatcher.backends.base import Audio, Finished, Job, Output

_NAMELESS: Final = "audio"
"""What a backend is told of a recording that came without a name."""


class MissingInputError(TaskfoldError):
    """What the request refers to is not in the artifact store."""


async def store(
    artifacts: ArtifactStore, job: Job, finished: Finished, run_s: float, keep: timedelta | None
) -> TaskDone:
    """Store every output for so long, None: as long as can be; the event that reports them."""
    name = _recording(job)
    stored = [
        await _store(artifacts, artifact_id(job.task_id, job.attempt, number), output, name, keep)
        for number, output in enumerate(finished.outputs)
    ]
    text = finished.text
    return TaskDone(
        attempt=job.attempt,
        artifacts=tuple(stored),
        usage=Usage(run_s=round(run_s, 3), audio_s=finished.audio_s),
        text=text if text is not None and len(text.encode()) <= MAX_TEXT else None,
    )


def _recording(job: Job) -> str | None:
    """Give the name of the recording that was transcribed, without its ending, where it had one."""
    name = job.audio.filename if job.audio else _NAMELESS
    return None if name == _NAMELESS else PurePosixPath(name).stem


async def _store(
    artifacts: ArtifactStore, name: ArtifactId, output: Output, filename: str | None, keep: timedelta | None
) -> Artifact:
    info = await artifacts.put(
        name,
        _once(output.data),
        nuid=clock.new_name(),
        now=clock.now(),
        media_type=output.media_type,
        filename=filename and f"{filename}{endings(output.media_type)[0]}",
        keep=keep,
    )
    return Artifact(
        artifact_id=name,
        media_type=output.media_type,
        bytes=info.size,
        sha256=info.sha256,
        width=output.width,
        height=output.height,
        seed=output.seed,
    )


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def discard(artifacts: ArtifactStore, done: TaskDone) -> None:
    """Remove what was stored for an attempt whose result came too late."""
    for artifact in done.artifacts:
        info = await artifacts.info(artifact.artifact_id)
        if info is not None:
            await artifacts.delete(info, clock.now())


async def with_audio(artifacts: ArtifactStore, job: Job, request: Request) -> Job:
    """Complete a job with the recording that its request names; MissingInputError when it is gone."""
    if not isinstance(request, SpeechRequest):
        return job
    info = await artifacts.info(ArtifactId(request.artifact))
    if info is None:
        raise MissingInputError(f"the recording {request.artifact} is gone")
    audio = Audio(
        open=lambda: artifacts.read(info),
        size=info.size,
        media_type=info.media_type,
        filename=info.filename or _NAMELESS,
    )
    return replace(job, audio=audio)
