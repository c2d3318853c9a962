"""The tables of docs/configuration.md, derived from the Settings struct.

The one rule: the struct is the source; between the page's markers nothing is written by hand.
``python -m services.cli.settings_page`` writes them anew; ``--check`` fails when they are stale.
"""

import re
import sys
import typing
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Meta

from services.settings import PREFIX, Settings, meaning

PAGE: Final = Path(__file__).parents[2] / "docs" / "configuration.md"
# Where a group of the struct begins, and what the page calls it.
GROUPS: Final = {
    "api_host": "Processes",
    "lanes": "Made by init",
    "queue_limit": "Api",
    "keep_tasks_days": "Projector",
    "balancing": "Dispatcher",
    "simulated_gpus": "Simulated GPUs of up",
    "image_gen_urls": "GPUs",
}
_URLS: Final = {"image_gen_urls": "IMAGE_GEN_URL_1", "whisper_urls": "WHISPER_URL_1"}
_MARKED: Final = re.compile(r"(<!-- generated: settings -->\n).*?(<!-- end -->)", re.DOTALL)
_WORDS: Final = {int: "whole number", float: "number", bool: "true, false", str: "text", dict: "table"}
_BOUNDS: Final = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def page(text: str) -> str:
    """Renew what stands between the markers."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{tables()}\n{found[2]}", text)


def tables() -> str:
    lines: list[str] = []
    for field in msgspec.structs.fields(Settings):
        if field.name in GROUPS:
            lines += [*([""] if lines else []), f"### {GROUPS[field.name]}", ""]
            lines += ["| TOML key | environment | allowed | default | meaning |", "|---|---|---|---|---|"]
        default = field.default if field.default is not msgspec.NODEFAULT else None
        cells = [
            f"`{field.name}`",
            f"`{_URLS.get(field.name, PREFIX + field.name.upper())}`",
            allowed(field.type),
            "none" if default is None else f"`{_value(default)}`",
            meaning(field.name),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def allowed(annotation: Any) -> str:  # Any: a type as it is written
    """Say in a reader's words what a setting may be."""
    kind, notes = _parts(annotation)
    if typing.get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(kind))
    options = typing.get_args(kind) if type(None) in typing.get_args(kind) else (kind,)
    kind, inner = _parts(options[0])
    if typing.get_origin(kind) is Literal:
        return allowed(kind)
    words = _WORDS[typing.get_origin(kind) or kind]
    bounds = [
        f"{sign} {getattr(note, bound):g}"
        for note in (*notes, *inner)
        for bound, sign in _BOUNDS.items()
        if getattr(note, bound) is not None
    ]
    return ", ".join([words, *bounds])


def _parts(annotation: Any) -> tuple[Any, list[Meta]]:  # Any: a type as it is written
    if typing.get_origin(annotation) is not typing.Annotated:
        return annotation, []
    kind, *notes = typing.get_args(annotation)
    return kind, [note for note in notes if isinstance(note, Meta)]


def _value(value: Any) -> str:  # Any: whatever a setting can be
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def main(arguments: list[str]) -> str | None:
    """Write, or check when asked to; give what is wrong."""
    if arguments not in ([], ["--check"]):
        return "usage: python -m services.cli.settings_page [--check]"
    written = PAGE.read_text(encoding="utf-8")
    made = page(written)
    if arguments and written != made:
        return f"stale: docs/{PAGE.name}; `make generate` writes it anew"
    if not arguments:
        PAGE.write_text(made, encoding="utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
