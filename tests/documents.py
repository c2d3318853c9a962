"""The commands that stand in the documentation, and a shell that runs them as a reader would.

The one rule: a block fenced as ``sh`` is run as it is written, a page's blocks in their order and in one
shell. What needs more than this machine has (a container engine, root) is fenced as ``console``.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from markdown_it import MarkdownIt
from msgspec import Struct

ROOT = Path(__file__).parents[1]
PATIENCE_S = 110


class Block(Struct, frozen=True):
    """One fenced block; ``line`` is that of its fence, from 1."""

    line: int
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Give the fenced and the indented blocks of a page, the latter with language ``""``."""
    return [
        Block((token.map or [0])[0] + 1, token.info.strip(), token.content)
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8"))
        if token.type in ("fence", "code_block")
    ]


def pages() -> list[Path]:
    """Give every page for people: README and its like, and all under docs/."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def commands(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "sh"]


def script(found: list[Block], ports: Mapping[str, str]) -> str:
    """Put blocks together; ``ports`` says what stands in for the addresses that are written there."""
    parts = ["set -euo pipefail"]
    for block in found:
        text = block.text
        for written, real in ports.items():
            text = re.sub(rf"{re.escape(written)}(?![0-9])", real, text)
        parts.append(f"echo '>>> line {block.line}' >&2\n{text}")
    return "\n".join(parts)


def run(page: Path, folder: Path, ports: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """Run a page's commands in a folder, and give what they printed; AssertionError names the line."""
    done = subprocess.run(
        ["bash", "-c", script(commands(page), ports)],
        cwd=folder,
        env={**os.environ, **environment, "PATH": search_path()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    if done.returncode:
        line = re.findall(r">>> (line \d+)", done.stderr)[-1:]
        raise AssertionError(
            f"{page.name}, block at {line}: exit code {done.returncode}\n"
            f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done.stdout


def search_path() -> str:
    """Give the PATH of somebody who has activated the virtual environment and installed the nats CLI."""
    go = Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin"
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), str(go)])


def nats_cli() -> str | None:
    return shutil.which("nats", path=search_path())
