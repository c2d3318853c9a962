"""Results into files: where they go, and how they get there.

The one rule: a file is written whole or not at all; what cannot be written is said before a GPU
works for it.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

from services.cli.client import Api, Json
from services.cli.failures import EndError, Exit

STDOUT: Final = "-"
FORMATS: Final = {".txt": "text", ".srt": "srt", ".vtt": "vtt", ".json": "json"}
"""The response_format of a transcription that the suffix of a file asks for."""


def targets(output: str, count: int) -> list[str]:
    """Name the files of several results: fox.png, fox-2.png and so on."""
    if count > 1 and output == STDOUT:
        raise EndError(Exit.USAGE, f"{count} results do not fit into one stream; give -o a file name")
    path = Path(output)
    return [output, *(str(path.with_name(f"{path.stem}-{n}{path.suffix}")) for n in range(2, count + 1))]


def check(output: str, count: int, *, as_json: bool) -> None:
    """Raise EndError where the results could not be written."""
    if output == STDOUT and as_json:
        raise EndError(Exit.USAGE, "-o - and --json both want standard output; choose one")
    for name in targets(output, count):
        path = Path(name)
        if name == STDOUT:
            continue
        if _is_device(path):
            continue
        if path.is_dir():
            raise EndError(Exit.USAGE, f"{name} is a folder; give -o a file name")
        if not path.parent.is_dir():
            raise EndError(Exit.USAGE, f"there is no folder {path.parent}; make it first")
        if not os.access(path.parent, os.W_OK):
            raise EndError(Exit.USAGE, f"the folder {path.parent} cannot be written to")


async def fetch(api: Api, document: Json, output: str) -> list[str]:
    """Write every result of a task that is DONE, and give the names of the files."""
    artifacts = document["artifacts"]
    names = targets(output, len(artifacts)) if artifacts else []
    if not names:
        await api.get(f"{document['links']['self']}/result", accept="*/*")  # says why there is none
        raise EndError(Exit.REFUSED, f"task {document['task_id']} has no result")
    for artifact, name in zip(artifacts, names, strict=True):
        save(await api.get(artifact["url"], accept="*/*"), name)
    return [name for name in names if name != STDOUT]


def save(content: bytes, name: str) -> None:
    """Write a file beside its place and put it there in one step."""
    if name == STDOUT:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    path = Path(name).resolve()  # a link stays one
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if _is_device(path):
            path.write_bytes(content)
            return
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise EndError(Exit.USAGE, f"cannot write {name}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _is_device(path: Path) -> bool:
    """Say whether this is a pipe or a thing like /dev/null, which nothing may take the place of."""
    return path.exists() and not path.is_file() and not path.is_dir()
