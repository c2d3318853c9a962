"""Taking a task's content away: what goes, and the facts that stay.

The one rule: pure; whatever a user wrote or got is content, and so is what a backend said of it. Names that
tasks are found by, tags and user, are facts.
"""

from typing import Final

from msgspec.structs import replace

from schemas.events import Attempt, Facts, TaskErased, TaskError
from schemas.ids import ArtifactId, artifact_id
from schemas.requests import AnySubmission, ImageSubmission, SpeechSubmission
from schemas.task import FINAL, Task

ERASED: Final = "erased"
"""Stands where a request must have a text."""
CONTENT: Final = frozenset({"prompt", "negative_prompt", "artifact"})
"""Members of a request that are content; a document shows null for them."""
_RESULTS: Final = 8


def erased(task: Task, number: int, by: str) -> TaskErased:
    """Give the event that takes a finished task's place; ``number`` is the sequence of its first event."""
    if task.status not in FINAL:
        raise ValueError("only what has ended can be erased")
    return TaskErased(
        by=by,
        facts=Facts(
            number=number,
            status=task.status.value,  # type: ignore[arg-type]  # the final ones are these
            submission=_submission(task.submission),
            submitted_at=task.submitted_at,
            finished_at=task.finished_at,
            attempts=tuple(_attempt(attempt) for attempt in task.attempts),
            counted=task.counted,
            artifacts=task.artifacts,
            usage=task.usage,
            error=_error(task.error),
        ),
    )


def results(task: Task) -> list[ArtifactId]:
    """Name the artifacts that a task may have left, also those of attempts that came to nothing."""
    named = [artifact.artifact_id for artifact in task.artifacts]
    possible = (
        artifact_id(task.task_id, attempt.attempt, number)
        for attempt in task.attempts
        for number in range(_RESULTS)
    )
    return list(dict.fromkeys([*named, *possible]))


def recording(task: Task) -> ArtifactId | None:
    """Name the recording that a task is about, while its content is there."""
    made = task.submission
    if task.erased_at is None and isinstance(made, SpeechSubmission):
        return ArtifactId(made.request.artifact)
    return None


def _submission(made: AnySubmission | None) -> AnySubmission | None:
    match made:
        case None:
            return None
        case ImageSubmission(request=request):
            picture = replace(request, prompt=ERASED, negative_prompt="")
            return replace(made, request=picture, metadata={}, fingerprint="")
        case SpeechSubmission(request=request):
            speech = replace(request, artifact=ERASED, prompt=None)
            return replace(made, request=speech, metadata={}, fingerprint="")


def _attempt(attempt: Attempt) -> Attempt:
    return replace(attempt, error=_error(attempt.error))


def _error(error: TaskError | None) -> TaskError | None:
    """Keep the code; a message may repeat what the user wrote."""
    return replace(error, message=ERASED) if error else None
