"""What a ComfyUI is sent, and how what it says reads."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from schemas import workflow
from schemas.events import ErrorClass
from schemas.ids import TaskId, parse_task_id
from schemas.requests import ImageRequest
from services.dispatcher.backends import comfyui_wire as wire
from services.dispatcher.backends.base import Failed, Finished
from services.dispatcher.backends.classify import Broken, Reply, Trouble
from services.dispatcher.backends.comfyui_events import Ended, Preview, Step, heard, shown
from services.dispatcher.backends.comfyui_refusals import refusal
from services.dispatcher.backends.polling import Unclear

EXAMPLE = workflow.read(
    Path(__file__).parents[2].joinpath("deploy/comfyui/text-to-image.json").read_bytes()
)
FIXED = replace(EXAMPLE, inputs={"prompt": "6.inputs.text", "seed": "3.inputs.seed"})
TASK = TaskId("0199d4e8-7c1a-7000-8000-0123456789ab")
FOX = ImageRequest(prompt="a fox", width=640, height=480, steps=9, seed=7)
ID = wire.remote_id(TASK, 1)


def reply(body: object, status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode(body))


def test_an_attempt_has_one_id_that_is_a_canonical_uuid_and_no_other_attempt_s() -> None:
    assert wire.remote_id(TASK, 1) == ID
    assert parse_task_id(ID) == ID
    assert not wire.of_attempt(wire.remote_id(TASK, 2), ID)


def test_several_pictures_are_several_prompts_with_seeds_that_follow() -> None:
    prompts = wire.prompts(EXAMPLE, replace(FOX, n=3), None, ID)

    assert [prompt.graph["3"]["inputs"]["seed"] for prompt in prompts] == [7, 8, 9]
    assert len({prompt.id for prompt in prompts}) == 3
    assert all(wire.of_attempt(prompt.id, ID) and parse_task_id(prompt.id) for prompt in prompts)
    assert prompts[0].id == ID


def test_several_pictures_are_one_prompt_where_the_workflow_has_a_place_for_their_number() -> None:
    batched = replace(EXAMPLE, inputs={**EXAMPLE.inputs, "n": "5.inputs.batch_size"})

    (prompt,) = wire.prompts(batched, replace(FOX, n=3), None, ID)

    assert prompt.graph["5"]["inputs"] == {"width": 640, "height": 480, "batch_size": 3}


def test_what_the_workflow_has_no_place_for_is_as_the_workflow_has_it() -> None:
    (prompt,) = wire.prompts(FIXED, replace(FOX, sampler="heun"), "other.safetensors", ID)

    assert prompt.graph["4"] == EXAMPLE.graph["4"]
    assert prompt.graph["5"] == EXAMPLE.graph["5"]
    assert prompt.graph["3"]["inputs"]["sampler_name"] == "euler"


def test_sampler_guidance_and_model_go_to_their_places_when_they_were_asked_for() -> None:
    (plain,) = wire.prompts(EXAMPLE, FOX, None, ID)
    (asked,) = wire.prompts(EXAMPLE, replace(FOX, sampler="heun", guidance=3.5), "b.safetensors", ID)

    assert plain.graph["4"] == EXAMPLE.graph["4"]
    assert plain.graph["3"]["inputs"]["cfg"] == 7.0
    assert asked.graph["4"]["inputs"]["ckpt_name"] == "b.safetensors"
    assert (asked.graph["3"]["inputs"]["cfg"], asked.graph["3"]["inputs"]["sampler_name"]) == (3.5, "heun")


def test_no_id_and_no_filename_leaves_its_place_in_a_path() -> None:
    assert wire.history_path("../x?y#z") == "/history/..%2Fx%3Fy%23z"
    assert wire.cancel_path("a/b") == "/api/jobs/a%2Fb/cancel"
    assert wire.view_path(wire.File("a&b=c.png", "d/e", "temp")) == (
        "/view?filename=a%26b%3Dc.png&subfolder=d%2Fe&type=temp"
    )
    assert wire.socket_path("a&b") == "/ws?clientId=a%26b"


def refused(node: str, name: str, kind: str) -> Reply:
    fault = {"type": kind, "message": "Not good", "details": name, "extra_info": {"input_name": name}}
    error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
    return reply({"error": error, "node_errors": {node: {"errors": [fault], "class_type": "Node"}}}, 400)


def graph_error(kind: str, node_errors: object) -> Reply:
    error = {"type": kind, "message": "Cannot execute", "details": "Node ID '#6'", "extra_info": {}}
    return reply({"error": error, "node_errors": node_errors}, 400)


WORKFLOW = (ErrorClass.MISCONFIGURED, "workflow_rejected")
MODEL = (ErrorClass.MISCONFIGURED, "model_missing")
TASKS_OWN = (ErrorClass.PERMANENT, "rejected_by_backend")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refused("4", "ckpt_name", "value_not_in_list"), MODEL),
        (refused("3", "scheduler", "value_not_in_list"), MODEL),
        (
            refused("3", "denoise", "required_input_missing"),
            WORKFLOW,
        ),
        (refused("8", "samples", "bad_linked_input"), WORKFLOW),
        (refused("8", "vae", "return_type_mismatch"), WORKFLOW),
        (refused("3", "sampler_name", "value_not_in_list"), TASKS_OWN),
        (refused("5", "width", "value_bigger_than_max"), TASKS_OWN),
        (refused("9", "x", "custom_validation_failed"), TASKS_OWN),
        (graph_error("invalid_prompt", []), WORKFLOW),
        (graph_error("missing_node_type", {}), WORKFLOW),
        (graph_error("prompt_no_outputs", {}), WORKFLOW),
        (graph_error("invalid_prompt_id", {}), TASKS_OWN),
        (Reply(400, b"no"), TASKS_OWN),
        (Reply(401), (ErrorClass.MISCONFIGURED, "access_denied")),
        (Reply(503), (ErrorClass.OVERLOADED, "backend_busy")),
        (Broken(Trouble.REFUSED, "x"), (ErrorClass.BACKEND_DOWN, "connection_refused")),
    ],
)
def test_a_refusal_is_the_fault_of_the_workflow_or_of_the_task(
    answer: Reply | Broken, expected: tuple[ErrorClass, str]
) -> None:
    found = refusal(answer, EXAMPLE)

    assert found is not None
    assert (found.error.error_class, found.error.code) == expected
    assert found.error.message


def test_a_refusal_says_which_node_and_what_of_it() -> None:
    found = refusal(refused("4", "ckpt_name", "value_not_in_list"), EXAMPLE)

    assert found is not None
    assert found.error.message == "Node (node 4): Not good: ckpt_name"
    assert refusal(reply({"prompt_id": ID, "number": 1, "node_errors": {}}), EXAMPLE) is None


def entry(outputs: object = None, *messages: object, status: str = "success") -> wire.Entry:
    body = {"outputs": outputs or {}, "status": {"status_str": status, "messages": messages}}
    found = wire.understood(reply({ID: body}), ID)
    assert isinstance(found, wire.Entry)
    return found


def image(name: str, kind: str = "output") -> dict[str, str]:
    return {"filename": name, "subfolder": "", "type": kind}


def test_saved_pictures_are_taken_and_previews_only_where_none_was_saved() -> None:
    both = entry({"1": {"images": [image("t", "temp")]}, "9": {"images": [image("a"), image("b")]}})
    shown = entry({"1": {"images": [image("t", "temp")], "animated": [False]}})
    odd = entry(
        {
            "1": {"images": None},
            "2": {"images": ["x", {}]},
            "3": None,
        }
    )

    assert [file.filename for file in wire.files(both)] == ["a", "b"]
    assert [file.filename for file in wire.files(shown)] == ["t"]
    given = entry({"4": {"images": [image("i", "input")]}})
    assert wire.files(odd) == wire.files(given) == ()


OUT_OF_MEMORY = {
    "node_id": "3",
    "node_type": "KSampler",
    "exception_type": "torch.OutOfMemoryError",
    "exception_message": "Allocation on device",
}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (["execution_error", OUT_OF_MEMORY], (ErrorClass.TRANSIENT, "backend_oom")),
        (["execution_error", {}], (ErrorClass.TRANSIENT, "backend_error")),
        (["execution_interrupted", {"prompt_id": ID}], (ErrorClass.TRANSIENT, "interrupted")),
        (["what_comes_later", {}], (ErrorClass.TRANSIENT, "backend_error")),
        ("nonsense", (ErrorClass.TRANSIENT, "backend_error")),
    ],
)
def test_a_prompt_that_did_not_end_well_says_why(message: object, expected: tuple[ErrorClass, str]) -> None:
    found = wire.failure(entry(None, ["execution_start", {}], message, status="error"))

    assert found is not None
    assert (found.error.error_class, found.error.code) == expected


def test_a_failure_names_its_node_and_a_success_is_none() -> None:
    found = wire.failure(entry(None, ["execution_error", OUT_OF_MEMORY], status="error"))

    assert found is not None
    assert found.error.message == "KSampler (node 3): torch.OutOfMemoryError: Allocation on device"
    assert wire.failure(entry(None, ["execution_success", {}])) is None
    assert wire.failure(wire.Entry()) is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (reply({}), type(None)),
        (reply({"another": {}}), type(None)),
        (reply({ID: {}}), wire.Entry),
        (Reply(200, b"<html>"), Unclear),
        (Reply(404), Unclear),
        (Broken(Trouble.SILENT, "x"), Unclear),
    ],
)
def test_the_history_tells_an_end_or_nothing(answer: Reply | Broken, kind: type) -> None:
    assert isinstance(wire.understood(answer, ID), kind)


def queue(running: list[str], pending: list[str]) -> Reply:
    entries = {"queue_running": running, "queue_pending": pending}
    return reply({name: [[0, prompt_id, {}, {}, []] for prompt_id in ids] for name, ids in entries.items()})


SECOND = wire.prompt_ids(ID, 2)[1]


@pytest.mark.parametrize(
    ("answer", "remote_id", "free"),
    [
        (queue([ID], []), ID, False),
        (queue([], [ID]), ID, False),
        (queue(["another"], [SECOND]), ID, False),
        (queue(["another"], []), ID, True),
        (queue([], []), ID, True),
        (queue([], []), None, True),
        (queue(["another"], []), None, None),
        (Reply(200, b"<html>"), ID, None),
        (Reply(401), None, None),
        (Broken(Trouble.REFUSED, "x"), ID, True),
        (Broken(Trouble.REFUSED, "x"), None, True),
        (Broken(Trouble.SILENT, "x"), ID, False),
        (Broken(Trouble.SILENT, "x"), None, None),
    ],
)
def test_the_queue_says_whether_an_attempt_holds_the_gpu(
    answer: Reply | Broken,
    remote_id: str | None,
    free: bool | None,  # noqa: FBT001 - from the table
) -> None:
    assert wire.idle(answer, remote_id) is free


@pytest.mark.parametrize(
    ("described", "names"),
    [
        ([["a", "b"], {"tooltip": "x"}], ("a", "b")),
        ([["a"]], ("a",)),
        (["COMBO", {"options": ["a", "b"]}], ("a", "b")),
        (["STRING", {}], ()),
        (None, ()),
    ],
)
def test_the_models_are_those_that_the_loader_of_the_workflow_knows(
    described: object, names: tuple[str, ...]
) -> None:
    body = {"CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": described}}}}

    assert wire.choices_path(EXAMPLE) == "/object_info/CheckpointLoaderSimple"
    assert wire.choices(msgspec.json.encode(body), EXAMPLE) == names
    assert wire.choices(b"{}", EXAMPLE) == wire.choices(b"<html>", EXAMPLE) == ()
    assert wire.choices_path(FIXED) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"system":{"os":"posix"},"devices":[]}', True),
        (b'{"system":{}}', False),
        (b'{"data":[]}', False),
        (b"<html>", False),
    ],
)
def test_a_comfyui_is_known_by_its_statistics(
    body: bytes,
    expected: bool,  # noqa: FBT001 - from the table
) -> None:
    assert wire.is_comfyui(body) is expected


def said(kind: str, **data: Any) -> str:  # Any: whatever a message may say
    return msgspec.json.encode({"type": kind, "data": {"prompt_id": ID, **data}}).decode()


RUNNING = {
    "3": {"value": 2.0, "max": 9.0, "state": "running"},
    "4": {"value": 1, "max": 1, "state": "finished"},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (said("progress", value=2, max=9, node="3"), Step(ID, 2, 9)),
        (said("progress_state", nodes=RUNNING), Step(ID, 2, 9)),
        (said("progress_state", nodes={}), None),
        (said("progress_state", nodes={"3": None}), None),
        (said("progress", value=2, max=0), None),
        (said("progress", value=10, max=9), None),
        (said("progress", value="2", max=9), None),
        (said("executing", node="3"), None),
        (said("executing", node=None), Ended(ID)),
        (said("execution_success"), Ended(ID)),
        (said("execution_error"), Ended(ID)),
        (said("execution_interrupted"), Ended(ID)),
        (said("execution_start"), None),
        ('{"type":"status","data":{"status":{}}}', None),
        ('{"type":"progress","data":null}', None),
        ("\ud800 nonsense", None),
    ],
)
def test_a_message_tells_a_step_or_an_end_or_nothing(text: str, expected: Step | Ended | None) -> None:
    assert heard(text) == expected


JPEG = b"\xff\xd8\xff and so on"
OTHER = wire.remote_id(TASK, 2)


def described(metadata: object) -> bytes:
    encoded = msgspec.json.encode(metadata)
    return (4).to_bytes(4) + len(encoded).to_bytes(4) + encoded + JPEG


@pytest.mark.parametrize(
    ("message", "runs", "expected"),
    [
        ((1).to_bytes(4) + (1).to_bytes(4) + JPEG, ID, Preview(ID, JPEG)),
        ((1).to_bytes(4) + (2).to_bytes(4) + JPEG, ID, Preview(ID, JPEG)),
        ((1).to_bytes(4) + (1).to_bytes(4) + JPEG, None, None),
        (described({"prompt_id": ID, "image_type": "image/jpeg"}), None, Preview(ID, JPEG)),
        (described({"prompt_id": OTHER, "node_id": "3"}), ID, Preview(OTHER, JPEG)),
        (described({"node_id": "3"}), ID, None),
        (described(None), ID, None),
        ((4).to_bytes(4) + (2**32 - 1).to_bytes(4) + b"{}", ID, None),
        ((3).to_bytes(4) + (1).to_bytes(4) + b"3 words", ID, None),
        (b"", ID, None),
        (b"\0\0", ID, None),
    ],
)
def test_a_preview_is_that_of_the_prompt_it_names_or_else_of_the_one_whose_steps_are_told(
    message: bytes, runs: str | None, expected: Preview | None
) -> None:
    assert shown(message, runs) == expected


def test_the_end_of_an_attempt_has_the_seed_of_each_picture() -> None:
    png = bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
        "3a7e9b550000000a49444154789c6360000000020001"
        "48afa4710000000049454e44ae426082"
    )

    ended = wire.result([[png], [png, png]], 40)

    assert isinstance(ended, Finished)
    assert [output.seed for output in ended.outputs] == [40, 41, 41]
    broken_ones: list[list[list[bytes]]] = [[[]], [[b"x"]]]
    for pictures in broken_ones:
        broken = wire.result(pictures, 40)
        assert isinstance(broken, Failed)
        assert broken.error.code == "bad_image"


def test_only_a_prompt_that_the_server_does_not_know_is_lost() -> None:
    assert wire.is_lost(wire.lost("not there"))
    assert not wire.is_lost(wire.failure(entry(None, ["execution_interrupted", {}], status="error")))
    assert not wire.is_lost(wire.Entry())


def test_the_queue_holds_an_attempt_as_long_as_one_of_its_pictures() -> None:
    last = wire.prompt_ids(ID, 16)[-1]
    held = wire.waiting(queue([last], []))
    other = wire.waiting(queue([wire.remote_id(TASK, 2)], []))

    assert held is not None
    assert other is not None
    assert held.holds(ID)
    assert not other.holds(ID)


def test_a_picture_that_is_not_there_any_more_is_lost() -> None:
    assert wire.picture(Reply(200, b"x")) == b"x"
    gone = wire.picture(Reply(404))
    assert isinstance(gone, Failed)
    assert gone.error.error_class is ErrorClass.LOST
