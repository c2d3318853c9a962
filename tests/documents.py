"""The commands that stand in the documentation, and a shell that runs them as a reader would.

The one rule: a block fenced as ``sh`` is run as it is written, a page's blocks in their order and in one
shell. What needs more than this machine has (a container engine, root) is fenced as ``console``.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from markdown_it import MarkdownIt
from msgspec import Struct

ROOT = Path(__file__).parents[1]
PATIENCE_S = 110


class Block(Struct, frozen=True):
    """One fenced block; ``line`` is that of its fence, from 1, ``heading`` the nearest above it."""

    line: int
    language: str
    text: str
    heading: str


def blocks(page: Path) -> list[Block]:
    """Give the fenced and the indented blocks of a page, the latter with language ``""``."""
    found: list[Block] = []
    heading = above = ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if above == "heading_open":
            heading = token.content
        if token.type in ("fence", "code_block"):
            found.append(Block((token.map or [0])[0] + 1, token.info.strip(), token.content, heading))
        above = token.type
    return found


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
        parts += [
            f"echo '>>> line {block.line}' >&2",
            f"printf '\\036%s\\n' {shlex.quote(block.heading)}",
            text,
        ]
    return "\n".join(parts)


def run(
    page: Path, folder: Path, ports: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, str]:
    """Run a page's commands; give what they printed, by heading. AssertionError names the line."""
    with subprocess.Popen(
        ["bash", "-c", script(commands(page), ports)],
        cwd=folder,
        env={**os.environ, **environment, "PATH": search_path()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as bash:
        try:
            out, err = bash.communicate(timeout=PATIENCE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it left in the background
                os.killpg(bash.pid, signal.SIGKILL)
    if bash.returncode:
        line = re.findall(r">>> (line \d+)", err)[-1:]
        raise AssertionError(
            f"{page.name}, block at {line}: exit code {bash.returncode}\n{out[-3000:]}\n{err[-3000:]}"
        )
    printed: dict[str, str] = {}
    for part in out.split("\x1e")[1:]:  # octal 036 of the script
        heading, _, text = part.partition("\n")
        printed[heading] = printed.get(heading, "") + text
    return printed


def search_path() -> str:
    """Give the PATH of somebody who has activated the virtual environment and installed the nats CLI."""
    go = Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin"
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), str(go)])


def nats_cli() -> str | None:
    return shutil.which("nats", path=search_path())
