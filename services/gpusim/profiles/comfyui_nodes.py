"""The nodes that a simulated ComfyUI has, and how it checks a graph of them. Pure.

Errors have the types, and nearly the words, of the real server; a graph is only checked as far as its
outputs need it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

# Any: JSON of any shape; each member's type is checked where it is read.
Json = Any

SAMPLERS = ("euler", "euler_ancestral", "heun", "dpm_2", "dpmpp_2m", "dpmpp_sde", "lcm", "ddim", "uni_pc")
SCHEDULERS = ("simple", "normal", "karras", "exponential", "sgm_uniform", "beta")

MAX_SIDE = 16_384
_BIG = 2**64 - 1


class Link(msgspec.Struct, frozen=True):
    """An input that takes what another node gives, of this type."""

    kind: str


class Number(msgspec.Struct, frozen=True):
    """An INT, or a FLOAT where it is not `whole`."""

    low: float
    high: float
    whole: bool = True


class Text(msgspec.Struct, frozen=True):
    """A STRING."""


class Choice(msgspec.Struct, frozen=True):
    """A COMBO: one of these."""

    names: tuple[str, ...]


Input = Link | Number | Text | Choice


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A class of nodes: what it takes and gives. An output ends a graph."""

    takes: Mapping[str, Input]
    gives: tuple[str, ...] = ()
    output: bool = False


class GraphError(Exception):
    """The graph is refused with 400 and this body."""

    def __init__(self, error: dict[str, Json], node_errors: dict[str, Json]) -> None:
        super().__init__(error["message"])
        self.body = {"error": error, "node_errors": node_errors}


def nodes(models: Sequence[str]) -> dict[str, Node]:
    """Give the classes of a server with these checkpoints."""
    sampler: dict[str, Input] = {
        "model": Link("MODEL"),
        "seed": Number(0, _BIG),
        "steps": Number(1, 10_000),
        "cfg": Number(0, 100, whole=False),
        "sampler_name": Choice(SAMPLERS),
        "scheduler": Choice(SCHEDULERS),
        "positive": Link("CONDITIONING"),
        "negative": Link("CONDITIONING"),
        "latent_image": Link("LATENT"),
        "denoise": Number(0, 1, whole=False),
    }
    latent = {
        "width": Number(16, MAX_SIDE),
        "height": Number(16, MAX_SIDE),
        "batch_size": Number(1, 4096),
    }
    saved: dict[str, Input] = {"images": Link("IMAGE"), "filename_prefix": Text()}
    return {
        "CheckpointLoaderSimple": Node(
            takes={"ckpt_name": Choice(tuple(models))}, gives=("MODEL", "CLIP", "VAE")
        ),
        "CLIPTextEncode": Node(takes={"text": Text(), "clip": Link("CLIP")}, gives=("CONDITIONING",)),
        "EmptyLatentImage": Node(takes=latent, gives=("LATENT",)),
        "KSampler": Node(takes=sampler, gives=("LATENT",)),
        "VAEDecode": Node(takes={"samples": Link("LATENT"), "vae": Link("VAE")}, gives=("IMAGE",)),
        "SaveImage": Node(takes=saved, output=True),
        "PreviewImage": Node(takes={"images": Link("IMAGE")}, output=True),
    }


def checked(graph: Json, known: Mapping[str, Node]) -> tuple[str, ...]:
    """Give the ids of the outputs of a graph in which everything that they need is right."""
    if not isinstance(graph, dict):
        raise _invalid("Cannot execute because the prompt is not an object.")
    for node_id, node in graph.items():
        kind = node.get("class_type") if isinstance(node, dict) else None
        if kind is None:
            reason = "Cannot execute because a node is missing the class_type property."
            raise _invalid(reason, node_id)
        if kind not in known:
            raise _invalid(f"Cannot execute because node {kind} does not exist.", node_id)
    outputs = tuple(node_id for node_id, node in graph.items() if known[node["class_type"]].output)
    if not outputs:
        raise GraphError(_error("prompt_no_outputs", "Prompt has no outputs"), {})
    wrong: dict[str, Json] = {}
    for node_id in _needed(graph, outputs):
        kind = graph[node_id]["class_type"]
        if errors := list(_errors(graph, node_id, known)):
            wrong[node_id] = {"errors": errors, "dependent_outputs": outputs, "class_type": kind}
    if wrong:
        error = _error("prompt_outputs_failed_validation", "Prompt outputs failed validation")
        raise GraphError(error, wrong)
    return outputs


def described(kind: str, node: Node) -> dict[str, Json]:
    """Describe a class as `/object_info` does."""
    required = {name: _kind(taken) for name, taken in node.takes.items()}
    return {
        "input": {"required": required},
        "input_order": {"required": list(required)},
        "output": node.gives,
        "name": kind,
        "display_name": kind,
        "output_node": node.output,
    }


def _kind(taken: Input) -> list[Json]:
    match taken:
        case Link(kind=kind):
            return [kind]
        case Number(low=low, high=high, whole=whole):
            return ["INT" if whole else "FLOAT", {"min": low, "max": high}]
        case Text():
            return ["STRING", {"multiline": True}]
        case Choice(names=names):
            return [list(names)]


def _needed(graph: dict[str, Json], outputs: Sequence[str]) -> list[str]:
    """List the nodes that the outputs need, each once."""
    found: list[str] = []
    left = list(reversed(outputs))
    while left:
        node_id = left.pop()
        if node_id not in found:
            found.append(node_id)
            inputs = graph[node_id].get("inputs", {}).values()
            left += [value[0] for value in inputs if _is_link(value) and value[0] in graph]
    return found


def _errors(graph: dict[str, Json], node_id: str, known: Mapping[str, Node]) -> Iterator[dict[str, Json]]:
    node = graph[node_id]
    inputs = node.get("inputs", {})
    for name, taken in known[node["class_type"]].takes.items():
        if name not in inputs:
            yield _error("required_input_missing", "Required input is missing", name, name)
        elif isinstance(taken, Link):
            yield from _link_errors(graph, name, inputs[name], taken, known)
        else:
            yield from _value_errors(name, inputs[name], taken)


def _link_errors(
    graph: dict[str, Json], name: str, value: Json, taken: Link, known: Mapping[str, Node]
) -> Iterator[dict[str, Json]]:
    if not _is_link(value) or value[0] not in graph:
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        yield _error("bad_linked_input", message, name, name)
        return
    gives = known[graph[value[0]]["class_type"]].gives
    given = gives[value[1]] if value[1] < len(gives) else None
    if given != taken.kind:
        details = f"{name}, received_type({given}) mismatch input_type({taken.kind})"
        yield _error("return_type_mismatch", "Return type mismatch between linked nodes", details, name)


def _value_errors(name: str, value: Json, taken: Number | Text | Choice) -> Iterator[dict[str, Json]]:
    match taken:
        case Choice(names=names) if value not in names:
            yield _error(
                "value_not_in_list", "Value not in list", f"{name}: {value!r} not in {names}", name
            )
        case Number() if not _is_number(value):
            kind = "INT" if taken.whole else "FLOAT"
            details = f"{name}, {value!r}"
            yield _error(
                "invalid_input_type", f"Failed to convert an input value to a {kind} value", details, name
            )
        case Number(low=low) if float(value) < low:
            yield _error("value_smaller_than_min", f"Value {value} smaller than min of {low}", name, name)
        case Number(high=high) if float(value) > high:
            yield _error("value_bigger_than_max", f"Value {value} bigger than max of {high}", name, name)
        case _:
            return


def _is_link(value: Json) -> bool:
    match value:
        case [str(), int() as slot]:
            return slot >= 0
        case _:
            return False


def _is_number(value: Json) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _error(kind: str, message: str, details: str = "", named: str | None = None) -> dict[str, Json]:
    extra = {"input_name": named} if named else {}
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def _invalid(message: str, node_id: str | None = None) -> GraphError:
    return GraphError(
        _error("invalid_prompt", message, "" if node_id is None else f"Node ID '#{node_id}'"), {}
    )
