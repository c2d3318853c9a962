"""What a checked graph draws: its links are followed back from an output. Pure.

Of several outputs the first one's picture is drawn, and all of them give it.
"""

from typing import Any

import msgspec

from services.gpusim.painting import within_limits
from services.gpusim.picture import Picture
from services.gpusim.profiles.comfyui_nodes import GraphError

# Any: a graph that was checked, whose values have their types.
Graph = dict[str, Any]


class Drawing(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt's work: so many pictures at once by that sampler."""

    picture: Picture
    count: int
    model: str
    sampler: str
    outputs: tuple[str, ...]


def drawing(graph: Graph, outputs: tuple[str, ...]) -> Drawing:
    """Read a graph. Raises GraphError where it comes to no picture that can be drawn."""
    decode = _source(graph, outputs[0], "images")
    sampler = _source(graph, decode, "samples")
    if graph[sampler]["class_type"] != "KSampler":
        raise _undrawable("nothing is sampled")
    inputs = graph[sampler]["inputs"]
    size = graph[_latent(graph, sampler)]["inputs"]
    picture = Picture(
        prompt=_text(graph, sampler, "positive"),
        negative_prompt=_text(graph, sampler, "negative"),
        seed=int(inputs["seed"]),
        width=int(size["width"]),
        height=int(size["height"]),
        steps=int(inputs["steps"]),
    )
    if not within_limits(picture):
        raise _undrawable(f"{picture.width}x{picture.height} in {picture.steps} steps is too much")
    return Drawing(
        picture=picture,
        count=int(size["batch_size"]),
        model=graph[_source(graph, sampler, "model")]["inputs"]["ckpt_name"],
        sampler=sampler,
        outputs=outputs,
    )


def _source(graph: Graph, node_id: str, name: str) -> str:
    return str(graph[node_id]["inputs"][name][0])


def _text(graph: Graph, sampler: str, name: str) -> str:
    return str(graph[_source(graph, sampler, name)]["inputs"]["text"])


def _latent(graph: Graph, node_id: str) -> str:
    """Find the empty picture that a sampler begins with, through the samplers before it."""
    passed: set[str] = set()
    while graph[node_id]["class_type"] == "KSampler":
        if node_id in passed:
            raise _undrawable("the samplers go round in a circle")
        passed.add(node_id)
        node_id = _source(graph, node_id, "latent_image")
    return node_id


def _undrawable(reason: str) -> GraphError:
    error = {"type": "invalid_prompt", "message": f"Cannot simulate: {reason}", "details": ""}
    return GraphError({**error, "extra_info": {}}, {})
