"""What stays of an erased task, and that it says nothing of what the user put in and got out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from schemas import erasure, events, views
from schemas.events import Attempt, Recorded, TaskErased, TaskError
from schemas.ids import artifact_id
from schemas.requests import AnySubmission, ImageRequest, ImageSubmission, SpeechRequest, SpeechSubmission
from schemas.task import FINAL, Status, Task, fold
from tests import strategies
from tests.builders import (
    ADDRESS,
    GPU,
    TASK,
    artifact,
    at,
    done,
    history,
    image,
    speech,
    started,
    submitted,
)

SECRET = "what nobody may read"
FACTS = {
    *("model", "width", "height", "steps", "seed", "guidance", "sampler", "n"),
    *("language", "temperature", "translate", "word_timestamps", "response_format"),
}


def ended() -> st.SearchStrategy[Task]:
    """Give any task that is over, whether or not its events could have made it."""
    return st.builds(
        lambda task, status: replace(
            task, task_id=TASK, status=status, finished_at=task.finished_at or at(9), erased_at=None
        ),
        strategies.of(Task),
        st.sampled_from(sorted(FINAL)),
    )


def told(made: AnySubmission | None) -> AnySubmission | None:
    match made:
        case None:
            return None
        case ImageSubmission(request=request):
            picture = replace(request, prompt=SECRET, negative_prompt=SECRET)
            return replace(made, request=picture, metadata={SECRET: [SECRET]}, fingerprint=SECRET)
        case SpeechSubmission(request=request):
            words = replace(request, artifact=SECRET, prompt=SECRET)
            return replace(made, request=words, metadata={SECRET: [SECRET]}, fingerprint=SECRET)


def repeated(error: TaskError | None) -> TaskError | None:
    return replace(error, message=SECRET) if error else None


def told_everywhere(task: Task) -> Task:
    """Put a secret wherever a user can write one, and a backend can repeat it."""
    return replace(
        task,
        submission=told(task.submission),
        attempts=tuple(replace(attempt, error=repeated(attempt.error)) for attempt in task.attempts),
        text=SECRET,
        error=repeated(task.error),
        remote_id=SECRET,
    )


def folded(event: TaskErased) -> Task:
    """Give the task that nothing else is known of."""
    return fold(TASK, [Recorded(event, TASK, 99, at(99))])


def errors(task: Task) -> list[TaskError | None]:
    return [task.error, *(attempt.error for attempt in task.attempts)]


@given(ended())
def test_nothing_of_the_content_is_left(task: Task) -> None:
    event = erasure.erased(told_everywhere(task), 7, "client")

    assert event == erasure.erased(task, 7, "client")
    assert SECRET.encode() not in events.encode(event)
    assert events.decode("erased", events.encode(event)) == event


@given(ended())
def test_the_facts_are_all_kept(task: Task) -> None:
    after = folded(erasure.erased(task, 7, "client"))
    old, new = views.document(task, ADDRESS), views.document(after, ADDRESS)

    taken = {"request", "metadata", "text", "result_url", "attempts", "error", "erased_at", "sequence"}
    changed = {field.name for field in fields(old) if getattr(old, field.name) != getattr(new, field.name)}
    assert changed <= taken
    assert new.request == (
        {**old.request, **dict.fromkeys(erasure.CONTENT & old.request.keys())} if old.request else None
    )
    assert errors(after) == [
        replace(error, message=erasure.ERASED) if error else None for error in errors(task)
    ]
    assert [attempt.backend for attempt in new.attempts] == [attempt.backend for attempt in old.attempts]


def test_every_member_of_a_request_is_either_content_or_a_fact() -> None:
    members = {field.name for kind in (ImageRequest, SpeechRequest) for field in fields(kind)}

    assert members - FACTS == erasure.CONTENT


@pytest.mark.parametrize("status", [status for status in Status if status not in FINAL])
def test_what_has_not_ended_cannot_be_erased(status: Status) -> None:
    with pytest.raises(ValueError, match="only what has ended"):
        erasure.erased(Task(task_id=TASK, status=status), 1, "client")


def test_the_results_of_attempts_that_came_to_nothing_are_named_too() -> None:
    tries = tuple(Attempt(attempt=n, backend=GPU, started_at=at(n)) for n in (1, 2))
    task = Task(task_id=TASK, status=Status.DONE, attempts=tries, artifacts=(artifact(0),))

    named = erasure.results(task)
    assert len(named) == len(set(named))
    assert {artifact_id(TASK, attempt, number) for attempt in (1, 2) for number in range(8)} == set(named)


def test_a_recording_is_named_until_its_task_is_erased() -> None:
    task = Task(task_id=TASK, status=Status.DONE, submission=speech())

    assert erasure.recording(task) == "recording"
    assert erasure.recording(folded(erasure.erased(task, 1, "client"))) is None
    assert erasure.recording(replace(task, submission=image())) is None


def test_an_erasure_without_facts_leaves_a_task_that_can_still_be_erased() -> None:
    """As the first versions could have written it: the events before it are needed."""
    task = fold(TASK, history(submitted(), started(), done(text="secret"), TaskErased(by="default")))

    assert (task.text, task.artifacts, task.erased_at) == (None, (), None)
    assert folded(erasure.erased(task, 1, "client")).erased_at == at(99)
    assert folded(TaskErased(by="default")).status is Status.ABSENT
