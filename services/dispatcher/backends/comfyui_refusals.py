"""What it means that a ComfyUI does not take a prompt. Pure.

The one rule: a graph is the operator's and its values are the task's, so an error at a place that the task
filled is the task's own, and any other is a fault of workflow or server, for which no task fails.
"""

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from schemas.events import ErrorClass
from schemas.workflow import Workflow
from services.dispatcher.backends.base import Failed, failed
from services.dispatcher.backends.classify import OK, Broken, Reply, decoded, no_success

_REFUSED: Final = 400
_NOT_IN_LIST: Final = "value_not_in_list"
_OF_THE_GRAPH: Final = frozenset({"invalid_prompt", "missing_node_type", "prompt_no_outputs", "no_prompt"})
_OF_A_NODE: Final = frozenset(
    {_NOT_IN_LIST, "required_input_missing", "bad_linked_input", "return_type_mismatch"}
)


class _Fault(Struct, frozen=True):
    type: str = ""
    message: str = ""
    details: str = ""
    extra_info: dict[str, Any] | None = None  # Any: differs with the type

    @property
    def spoken(self) -> str:
        return ": ".join(filter(None, (self.message, self.details)))


class _Node(Struct, frozen=True):
    errors: list[_Fault] = []
    class_type: str = ""


class _Refusal(Struct, frozen=True):
    error: _Fault
    node_errors: dict[str, _Node] | list[Any] = {}  # Any: an empty list where there are none


def refusal(answer: Reply | Broken, work: Workflow) -> Failed | None:
    """Say why a submission was not taken; None when it was."""
    if isinstance(answer, Reply) and answer.status == OK:
        return None
    said = (
        decoded(answer.body, _Refusal) if isinstance(answer, Reply) and answer.status == _REFUSED else None
    )
    if said is None:
        return no_success(answer)
    if said.error.type in _OF_THE_GRAPH:
        return failed(ErrorClass.MISCONFIGURED, "workflow_rejected", said.error.spoken)
    asked = {work.place(member) for member in work.inputs if member != "model"}
    for node_id, node, fault in _faults(said):
        named = (fault.extra_info or {}).get("input_name")
        if fault.type in _OF_A_NODE and (node_id, named) not in asked:
            code = "model_missing" if fault.type == _NOT_IN_LIST else "workflow_rejected"
            return failed(
                ErrorClass.MISCONFIGURED, code, f"{node.class_type} (node {node_id}): {fault.spoken}"
            )
    reasons = [fault.spoken for _, _, fault in _faults(said)] or [said.error.spoken]
    return failed(ErrorClass.PERMANENT, "rejected_by_backend", "; ".join(reasons))


def _said(answer: Reply | Broken) -> _Refusal | None:
    if isinstance(answer, Broken) or answer.status != _REFUSED:
        return None
    return decoded(answer.body, _Refusal)


def _faults(said: _Refusal) -> Iterator[tuple[str, _Node, _Fault]]:
    if isinstance(said.node_errors, list):
        return
    for node_id, node in said.node_errors.items():
        for fault in node.errors:
            yield node_id, node, fault
