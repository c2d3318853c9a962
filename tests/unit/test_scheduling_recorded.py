"""What was, to be replayed."""

from typing import Any

import msgspec
import pytest

from schemas import events, work
from schemas.errors import UndecodableError
from schemas.events import Candidate, Decision, TaskDone, TaskEvent, TaskFailed, TaskStarted, Usage
from schemas.events import TaskError as Error
from schemas.events import TaskSubmitted as Submitted
from schemas.ids import BackendId
from services.scheduling.fairness import Turns
from services.scheduling.recorded import Past, Recording
from services.scheduling.simulation import Machine, simulate
from tests.builders import at, image, picture, speech

Json = dict[str, Any]  # Any: JSON of the api
LOAD_S = 15.0


def wire(task: str, seconds: float, event: TaskEvent) -> Json:
    return {
        "sequence": 7,
        "type": f"task.{events.TOKENS[type(event)]}",
        "time": at(seconds).isoformat(),
        "task_id": task,
        "data": msgspec.Raw(events.encode(event)),
    }


def done(  # noqa: PLR0913 - what a task may differ in
    task: str,
    came: float = 0.0,
    began: float = 0.0,
    run_s: float = 10.0,
    units: float = 1.0,
    *,
    backend: str = "image-1",
    model: str | None = "Qwen",
    asked: str | None = None,
    cold: bool = False,
) -> list[Json]:
    """Give the events of a task that was done."""
    name = BackendId(backend)
    candidates = (Candidate(backend=name, score=1.0, cold=cold),)
    decision = Decision(policy="p", reason="r", candidates=candidates)
    started = TaskStarted(
        attempt=1, backend=name, dispatcher="d", model=model, units=units, decision=decision
    )
    return [
        wire(task, came, Submitted(submission=image(request=picture(model=asked), user="ann", tenant="t"))),
        wire(task, began, started),
        wire(task, began + run_s, TaskDone(attempt=1, artifacts=(), usage=Usage(run_s=run_s))),
    ]


def backend(name: str = "image-1", **members: object) -> Json:
    fixed = {"kind": "image", "models": ["Qwen"], "slots": 1, "keeps": 1, "weight": 1.0, "wanted": "on"}
    return {"name": name, **fixed, **members}


def past(*tasks: list[Json], backends: list[Json] | None = None, most: int = 100) -> Past:
    recording = Recording()
    for page in tasks:
        recording.add(msgspec.json.encode({"events": page, "next": None}))
    if backends is not None:
        recording.add(msgspec.json.encode({"backends": backends}))
    return recording.past(most, LOAD_S)


def only(found: Past) -> Machine:
    (machine,) = found.machines
    return machine


def test_a_task_comes_again_as_it_came() -> None:
    found = past(done("a", 100.0, 100.0), done("b", 130.0, 130.0, 30.0, 2.0, asked="qwen"))
    first, second = found.arrivals
    assert (first.at_s, second.at_s) == (0.0, 30.0)
    assert (second.lane.kind, second.lane.model, second.tenant, second.user) == (
        "image",
        "qwen",
        "t",
        "ann",
    )
    assert second.units == 2.0


def test_how_long_each_task_took_beside_the_usual_is_kept() -> None:
    found = past(done("a", run_s=10.0), done("b", 1.0, 20.0, run_s=30.0))
    assert only(found).seconds == {"Qwen": 20.0}
    assert [arrival.factor for arrival in found.arrivals] == [0.5, 1.5]
    again = simulate(found.arrivals, found.machines, "round_robin", Turns(), model_load_s=LOAD_S)
    assert again.total.p99 == pytest.approx(39.0)


def test_events_may_stand_alone_and_in_any_order() -> None:
    recording = Recording()
    for event in reversed(done("a")):
        recording.add(msgspec.json.encode(event))
    assert len(recording.past(9, LOAD_S).arrivals) == 1


def test_only_the_last_tasks_are_taken() -> None:
    found = past(done("a"), done("b", 5.0, 10.0), done("c", 9.0, 20.0), most=2)
    assert [arrival.at_s for arrival in found.arrivals] == [0.0, 4.0]


def test_what_was_not_done_is_left_out_and_counted() -> None:
    failed = [*done("b")[:2], wire("b", 9.0, TaskFailed(error=Error(code="boom", message="it broke")))]
    found = past(done("a"), failed, done("c")[:1])
    assert (len(found.arrivals), found.left_out) == (1, 2)


def test_a_cold_run_tells_of_the_load_and_not_of_the_speed() -> None:
    found = past(
        done("a", 0.0, 0.0, 35.0, cold=True),
        done("b", 50.0, 50.0, 10.0),
        done("c", 99.0, 99.0, 10.0, model="Flux"),
        backends=[backend(models=["Qwen", "Flux"], keeps=2)],
    )
    machine = only(found)
    assert (machine.load_s, machine.seconds) == (25.0, {"Qwen": 10.0, "Flux": 10.0})
    assert machine.warm == ("Flux",)
    assert found.arrivals[0].factor == 1.0


def test_a_load_that_was_never_seen_takes_the_default_where_there_is_more_than_one_model() -> None:
    assert only(past(done("a"), done("b", model="Flux"))).load_s == LOAD_S
    assert only(past(done("a"))).load_s == 0.0


def test_a_backend_that_was_never_used_is_as_fast_as_the_others_and_one_out_of_use_is_left_out() -> None:
    backends = [backend(), backend("image-2", slots=3), backend("image-3", wanted="off")]
    found = past(done("a"), backends=backends)
    assert [(m.name, m.slots, dict(m.seconds)) for m in found.machines] == [
        ("image-1", 1, {"Qwen": 10.0}),
        ("image-2", 3, {"Qwen": 10.0}),
    ]


def test_a_backend_that_is_gone_has_the_slots_that_were_seen_busy_at_once() -> None:
    assert only(past(done("a"), done("b", 5.0, 5.0), done("c", 10.0, 10.0))).slots == 2


def test_another_name_of_a_model_can_be_asked_for_on_each_backend_that_has_it() -> None:
    found = past(done("a", asked="qwen-4k"), done("b", backend="image-2"))
    assert [machine.models["qwen-4k"] for machine in found.machines] == ["Qwen", "Qwen"]


def test_a_backend_that_does_not_say_what_it_has_runs_whatever_it_has() -> None:
    found = past(done("a", model=None))
    assert (only(found).models, only(found).seconds) == ({}, {"any": 10.0})
    again = simulate(found.arrivals, found.machines, "random", Turns(), model_load_s=LOAD_S)
    assert again.tasks == 1


def test_an_older_start_is_measured_by_the_submission() -> None:
    submitted, _, finished = done("a")
    started = TaskStarted(attempt=1, backend=BackendId("image-1"), dispatcher="d")
    found = past([submitted, wire("a", 0.0, started), finished])
    assert found.arrivals[0].units == work.units(image(request=picture(), user="ann", tenant="t"))


def test_kinds_have_their_own_machines() -> None:
    heard = [
        wire("s", 0.0, Submitted(submission=speech())),
        *done("s", backend="speech-1", model="whisper")[1:],
    ]
    found = past(done("a"), heard)
    assert [(machine.name, machine.kind) for machine in found.machines] == [
        ("image-1", "image"),
        ("speech-1", "speech"),
    ]
    again = simulate(
        found.arrivals, found.machines, "least_expected_completion", Turns(), model_load_s=LOAD_S
    )
    assert (again.tasks, again.unserved) == (2, 0)


def test_nothing_was_done() -> None:
    assert past([]) == Past(arrivals=(), machines=(), left_out=0)


def test_what_a_newer_version_records_is_passed_over() -> None:
    newer = {"sequence": 1, "type": "task.praised", "time": at(0).isoformat(), "task_id": "a", "data": {}}
    assert len(past([newer, *done("a")]).arrivals) == 1


@pytest.mark.parametrize(
    "document", [b"", b"7", b"[]", b"{}", b"\xff", b'{"tasks": []}', b'{"type": "task.done"}', b"[" * 9999]
)
def test_what_is_no_document_is_refused(document: bytes) -> None:
    with pytest.raises(UndecodableError):
        Recording().add(document)
