"""ComfyUI workflows: what is read, what is refused, and where the members of a request go."""

import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import workflow
from schemas.errors import Code, RejectedError
from schemas.requests import ImageRequest
from schemas.workflow import MAX_BYTES, MEMBERS, Workflow

EXAMPLE = Path(__file__).parents[2] / "deploy" / "comfyui" / "text-to-image.json"

# Any: the file's JSON, changed by a test
FILE: dict[str, Any] = msgspec.json.decode(EXAMPLE.read_bytes())


def file(**inputs: str | None) -> bytes:
    """Give the example with other inputs; None takes one out."""
    changed = copy.deepcopy(FILE)
    changed["inputs"] |= inputs
    changed["inputs"] = {name: path for name, path in changed["inputs"].items() if path is not None}
    return msgspec.json.encode(changed)


def refused(content: bytes) -> RejectedError:
    with pytest.raises(RejectedError) as error:
        workflow.read(content)
    return error.value


def test_the_example_has_a_place_for_whatever_a_request_says_but_the_number_of_pictures() -> None:
    example = workflow.read(EXAMPLE.read_bytes())

    assert set(example.inputs) == set(MEMBERS) - {"n"}
    assert set(MEMBERS) == set(ImageRequest.__struct_fields__)
    assert example.makes == "sd_xl_base_1.0.safetensors"
    assert example.place("prompt") == ("6", "text")
    assert example.place("n") is None


def test_a_graph_is_filled_and_the_workflow_stays_as_it_was() -> None:
    example = workflow.read(EXAMPLE.read_bytes())
    before = msgspec.json.encode(example)

    graph = workflow.filled(example, {"prompt": "a fox", "seed": 7, "width": 640, "guidance": None, "n": 3})

    assert graph["6"]["inputs"] == {"text": "a fox", "clip": ["4", 1]}
    assert graph["3"]["inputs"]["seed"] == 7
    assert graph["5"]["inputs"] == {"width": 640, "height": 1024, "batch_size": 1}
    assert graph["3"]["inputs"]["cfg"] == 7.0
    assert msgspec.json.encode(example) == before


@given(st.text())
def test_no_prompt_changes_anything_but_its_own_place(prompt: str) -> None:
    example = workflow.read(EXAMPLE.read_bytes())

    graph = workflow.filled(example, {"prompt": prompt})

    assert graph["6"]["inputs"].pop("text") == prompt
    empty = workflow.filled(example, {})
    del empty["6"]["inputs"]["text"]
    assert graph == empty


@pytest.mark.parametrize(
    ("content", "code", "member", "named"),
    [
        (b"", Code.MALFORMED, None, "not JSON"),
        (b" " * (MAX_BYTES + 1), Code.BODY_TOO_LARGE, None, str(MAX_BYTES)),
        (b"[]", Code.MALFORMED, None, '"workflow"'),
        (b'{"nodes": [], "links": []}', Code.MALFORMED, None, '"inputs"'),
        (b'{"workflow": {}, "inputs": {}}', Code.WRONG_TYPE, "workflow", "Export (API)"),
        (b'{"workflow": {"nodes": []}, "inputs": {}}', Code.WRONG_TYPE, "workflow", "class_type"),
        (b'{"workflow": {"1": {"class_type": "A"}}, "inputs": {}}', Code.WRONG_TYPE, "workflow", "inputs"),
        (file(prompt=None), Code.MISSING_MEMBER, "inputs.prompt", "inputs.prompt"),
        (file(seed=None), Code.MISSING_MEMBER, "inputs.seed", "inputs.seed"),
        (file(stepz="3.inputs.steps"), Code.UNKNOWN_MEMBER, "inputs.stepz", "negative_prompt"),
        (file(steps="33.inputs.steps"), Code.OUT_OF_RANGE, "inputs.steps", "3, 4, 5, 6, 7, 8, 9"),
        (file(steps="3.steps"), Code.OUT_OF_RANGE, "inputs.steps", "NODE.inputs.NAME"),
        (file(steps="3.inputs.stepz"), Code.OUT_OF_RANGE, "inputs.steps", "seed, steps, cfg"),
        (file(steps=""), Code.OUT_OF_RANGE, "inputs.steps", "NODE.inputs.NAME"),
    ],
)
def test_a_wrong_file_is_refused_with_the_member_and_what_is_allowed(
    content: bytes, code: Code, member: str | None, named: str
) -> None:
    error = refused(content)

    assert (error.code, error.member) == (code, member)
    assert named in error.detail


def test_an_id_with_a_colon_and_an_input_with_a_dot_are_paths_too() -> None:
    graph = {"10:5": {"class_type": "A", "inputs": {"images.text": "", "seed": 1}}}
    inputs = {"prompt": "10:5.inputs.images.text", "seed": "10:5.inputs.seed"}
    odd = Workflow(graph=graph, inputs=inputs)

    workflow.check(odd)
    assert workflow.filled(odd, {"prompt": "x"})["10:5"]["inputs"]["images.text"] == "x"
    assert odd.makes is None
