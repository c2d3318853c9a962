"""A ComfyUI workflow, and where in it the members of an image request go.

The one rule: values are set in the tree, one by one, and no text is ever put together, so that no prompt
can change a graph.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from schemas.errors import Code, RejectedError

MAX_BYTES: Final = 512 * 1024
"""Half of what fits into an entry of the registry."""

NEEDED: Final = ("prompt", "seed")
MEMBERS: Final = (
    *NEEDED,
    "negative_prompt",
    "width",
    "height",
    "steps",
    "guidance",
    "sampler",
    "model",
    "n",
)

_INPUTS: Final = ".inputs."
# What the usual loaders call the file that the pictures are made with.
_CHECKPOINTS: Final = ("ckpt_name", "unet_name")


class Workflow(Struct, frozen=True, kw_only=True):
    """``graph`` in API format; ``inputs`` from a request's members to paths in it, ``6.inputs.text``."""

    graph: dict[str, Any]  # Any: nodes are ComfyUI's, and may hold whatever JSON can say
    inputs: dict[str, str]

    @property
    def makes(self) -> str | None:
        """The file that the graph itself loads to make pictures, None where that cannot be told."""
        values = (node["inputs"].get(name) for node in self.graph.values() for name in _CHECKPOINTS)
        return next((value for value in values if isinstance(value, str)), None)

    def place(self, member: str) -> tuple[str, str] | None:
        """Give the node and its input where a member goes, None where it goes nowhere."""
        path = self.inputs.get(member)
        return None if path is None else _parted(path)


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    workflow: dict[str, Any]  # Any: checked node by node
    inputs: dict[str, str]


def read(content: bytes) -> Workflow:
    """Read ``{"workflow": {…}, "inputs": {"prompt": "6.inputs.text", …}}``.

    Raises RejectedError that names the member and what is allowed.
    """
    if len(content) > MAX_BYTES:
        raise RejectedError(Code.BODY_TOO_LARGE, f"{len(content)} bytes; at most {MAX_BYTES}")
    try:
        file = msgspec.json.decode(content, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError(
            Code.MALFORMED, f'not JSON of the form {{"workflow": {{…}}, "inputs": {{…}}}}: {error}'
        ) from None
    workflow = Workflow(graph=file.workflow, inputs=file.inputs)
    check(workflow)
    return workflow


def check(workflow: Workflow) -> None:
    """Raise RejectedError that names the member and what is allowed, unless every path leads somewhere."""
    if not workflow.graph or not all(map(_is_node, workflow.graph.values())):
        raise RejectedError(
            Code.WRONG_TYPE,
            "workflow is a graph in API format, nodes by id, each with class_type and inputs; "
            "ComfyUI writes it with Export (API)",
            member="workflow",
        )
    for member in NEEDED:
        if member not in workflow.inputs:
            raise _rejected(Code.MISSING_MEMBER, member, "is needed: the path of the input it goes to")
    for member, path in workflow.inputs.items():
        if member not in MEMBERS:
            raise _rejected(Code.UNKNOWN_MEMBER, member, f"is unknown; allowed are {', '.join(MEMBERS)}")
        _check_path(workflow.graph, member, path)


def filled(workflow: Workflow, values: Mapping[str, object]) -> dict[str, Any]:  # Any: as in Workflow.graph
    """Give a new graph with these members set; what is None, or has no path, is as the workflow has it."""
    graph = {key: {**node, "inputs": {**node["inputs"]}} for key, node in workflow.graph.items()}
    for member, path in workflow.inputs.items():
        if values.get(member) is not None:
            node, name = _parted(path)
            graph[node]["inputs"][name] = values[member]
    return graph


def _check_path(graph: dict[str, Any], member: str, path: str) -> None:
    node, name = _parted(path)
    if node not in graph:
        known = ", ".join(graph)
        raise _rejected(
            Code.OUT_OF_RANGE, member, f"is NODE.inputs.NAME, not {path!r}; the nodes are {known}"
        )
    if name not in graph[node]["inputs"]:
        known = ", ".join(graph[node]["inputs"]) or "none"
        raise _rejected(
            Code.OUT_OF_RANGE, member, f"names no input in {path!r}; those of node {node} are {known}"
        )


def _parted(path: str) -> tuple[str, str]:
    node, _, name = path.partition(_INPUTS)
    return node, name


def _is_node(node: object) -> bool:
    if not isinstance(node, dict):
        return False
    return isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def _rejected(code: Code, member: str, reason: str) -> RejectedError:
    return RejectedError(code, f"inputs.{member} {reason}", member=f"inputs.{member}")
