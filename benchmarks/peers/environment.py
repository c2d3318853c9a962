"""The peers' own virtual environment, made on first use from the locked requirements.

The one rule: nothing of a peer is ever installed beside ours; changed requirements make another one.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from typing import Final

from benchmarks.rig import ROOT

REQUIREMENTS: Final = ROOT / "requirements" / "peers.txt"
FOLDER: Final = ROOT / ".cache" / "peers"
_PINNED: Final = re.compile(r"^([a-z0-9-]+)==([^ ]+)", re.MULTILINE)


def python() -> str:
    """Give the interpreter, once everything is installed; raises CalledProcessError where that fails."""
    home = FOLDER / hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    interpreter = home / "bin" / "python"
    whole = home / "whole"
    if not whole.exists():
        print(
            f"installing the peers into {home.relative_to(ROOT)}; this takes about half a minute",
            flush=True,
        )
        shutil.rmtree(FOLDER, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(home))
        _run(
            str(interpreter),
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "install",
            "--require-hashes",
            "--requirement",
            str(REQUIREMENTS),
        )
        whole.touch()
    return str(interpreter)


def versions(names: tuple[str, ...]) -> str:
    """Name these packages with the versions that are installed."""
    pinned = dict(_PINNED.findall(REQUIREMENTS.read_text()))
    return ", ".join(f"{name} {pinned[name]}" for name in names)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
