"""What is derived from the contracts: JSON Schemas, the AsyncAPI document, the picture of a task's life.

The one rule: the code is the source and nothing below is written by hand. ``python -m schemas.generate``
writes it all; ``--check`` names what is stale and fails.
"""

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from schemas import asyncapi, envelope
from schemas.events import TOKENS, Progress, TaskEvent
from schemas.standing import Standing
from schemas.task import FINAL, TRANSITIONS, Status
from schemas.views import Document, ProgressView

Json = dict[str, Any]  # Any: JSON

ROOT: Final = Path(__file__).parents[1]
GENERATED: Final = "schemas/generated"
LIFECYCLE: Final = "docs/lifecycle.md"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_BLOCK: Final = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TOKENS: Final = list(TOKENS.values())


def files() -> dict[str, str]:
    """Give the whole content of every derived file by its path."""
    schemas = {f"events/{token}.v1": event_schema(event) for event, token in TOKENS.items()}
    schemas["progress.v1"] = schema(Progress, "taskfold.progress.v1")
    schemas["document"] = document_schema()
    schemas["asyncapi"] = asyncapi.document()
    made = {f"{GENERATED}/{name}.json": _dump(content) for name, content in schemas.items()}
    made[LIFECYCLE] = lifecycle((ROOT / LIFECYCLE).read_text(encoding="utf-8"))
    return made


def _dump(content: Json) -> str:
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def event_schema(event: type[TaskEvent]) -> Json:
    return schema(event, envelope.event_type(event))


def schema(shape: type[Struct], title: str, *more: type[Struct]) -> Json:
    """Describe a struct's JSON; ``more`` are defined beside what the struct refers to."""
    _, definitions = msgspec.json.schema_components((shape, *more), ref_template="#/$defs/{name}")
    shapes: Json = _plain(definitions)
    root = shapes.pop(shape.__name__)
    named = {"$schema": DIALECT, "$id": f"urn:{title.replace('.', ':')}", "title": title}
    return {**root, **named, **({"$defs": shapes} if shapes else {})}


def _plain(node: Any) -> Any:  # Any: JSON
    """Leave out what OpenAPI adds to JSON Schema: the kind tells the alternatives apart by itself."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items() if key != "discriminator"}
    return [_plain(item) for item in node] if isinstance(node, list) else node


def document_schema() -> Json:
    """Describe a task as the API shows it: what is stored, and what is put in front as it is read."""
    shown = schema(Document, "taskfold.document", ProgressView, Standing)
    spliced = {
        "progress": {"anyOf": [{"$ref": "#/$defs/ProgressView"}, {"type": "null"}]},
        "queue": {"anyOf": [{"$ref": "#/$defs/Standing"}, {"type": "null"}]},
    }
    text = inspect.cleandoc(Document.__doc__ or "").replace(", less ``progress`` and ``queue``", "")
    return {
        **shown,
        "description": text,
        "properties": {**shown["properties"], **spliced},
        "required": [*shown["required"], *spliced],
    }


def lifecycle(text: str) -> str:
    """Renew what stands between the markers."""
    blocks = {"diagram": diagram(), "table": table()}
    return _BLOCK.sub(lambda found: f"{found[1]}\n{blocks[found[2]]}\n{found[3]}", text)


def diagram() -> str:
    """Draw the table of transitions; events that lead the same way share an arrow."""
    arrows: dict[tuple[Status, Status], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        arrows.setdefault((before, after), []).append(TOKENS[event])
    lines = [
        f"    {_node(before)} --> {after}: {', '.join(sorted(arrows[before, after], key=_TOKENS.index))}"
        for before in Status
        for after in Status
        if (before, after) in arrows
    ]
    ends = [f"    {status} --> [*]" for status in Status if status in FINAL]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, *ends, "```", ""])


def _node(status: Status) -> str:
    return "[*]" if status is Status.ABSENT else status


def table() -> str:
    """Write the table of transitions out: what each event makes of each state."""
    rows = [
        [f"`{token}`", *(TRANSITIONS.get((status, event), "·") for status in Status)]
        for event, token in TOKENS.items()
    ]
    head = ["event", *Status]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def stale() -> list[str]:
    """Name what is not as it would be written, and what would not be written at all."""
    made = files()
    kept = {str(path.relative_to(ROOT)) for path in (ROOT / GENERATED).rglob("*.json")}
    return sorted((kept - set(made)) | {path for path, text in made.items() if _read(path) != text})


def _read(path: str) -> str | None:
    file = ROOT / path
    return file.read_text(encoding="utf-8") if file.exists() else None


def write() -> None:
    made = files()
    for path in stale():
        file = ROOT / path
        if path in made:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(made[path], encoding="utf-8")
        else:
            file.unlink()


def main(arguments: list[str]) -> str | None:
    """Write, or check when asked to; give what is wrong."""
    if arguments not in ([], ["--check"]):
        return "usage: python -m schemas.generate [--check]"
    if not arguments:
        write()
        return None
    found = stale()
    return f"stale: {', '.join(found)}; `make generate` writes them anew" if found else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
