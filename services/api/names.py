"""What the file of an artifact is called, and whether a browser may show it.

The one rule: pure; a name that came from outside carries no path, nothing that means something in a
header, and no ending that belongs to another type.
"""

import re
from typing import Final
from urllib.parse import quote

from services.artifacts import ArtifactInfo, endings

_MAX_NAME: Final = 200
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f\"\\]")
_OF_TASK: Final = re.compile(r"([0-9a-f-]{36})-\d+-(\d+)")
_NOT_ASCII: Final = re.compile(r"[^\x20-\x7e]")


def filename(given: str | None) -> str | None:
    """Keep the last part of a file's name, without what has a meaning in a header."""
    name = _UNPRINTABLE.sub("", re.split(r"[/\\]", given)[-1]) if given else ""
    return name[-_MAX_NAME:] or None


def disposition(info: ArtifactInfo, download: str | None) -> bytes:
    """Write ``Content-Disposition`` (RFC 6266).

    ``download``: None to show it where that is safe, else the name to save it under, empty for its own.
    """
    name = _ending(filename(download) or info.filename or _own(info), info.media_type)
    kind = b"attachment" if download is not None or not _shown(info.media_type) else b"inline"
    plain = b'%b; filename="%b"' % (kind, _NOT_ASCII.sub("_", name).replace('"', "_").encode())
    if name.isascii() and '"' not in name:
        return plain
    return plain + b"; filename*=UTF-8''%b" % quote(name, safe="").encode()


def _own(info: ArtifactInfo) -> str:
    """Name a result after its task, without the attempt, which nobody asked for."""
    match = _OF_TASK.fullmatch(info.artifact_id)
    return f"{match[1]}-{match[2]}" if match else info.artifact_id


def _ending(name: str, media_type: str) -> str:
    """Let a name end as its type does: what is saved is opened by its ending."""
    usual = endings(media_type)
    return name if not usual or name.lower().endswith(usual) else f"{name}{usual[0]}"


def _shown(media_type: str) -> bool:
    """Say whether a browser only shows or plays it: what is none of ours, as HTML and SVG, it may run."""
    return bool(endings(media_type))
