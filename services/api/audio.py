"""What kind of recording a file is, by its first bytes.

The one rule: pure; the name and the type that a client gives a file are not believed.
"""

import struct
from typing import Final

from schemas.errors import Code, RejectedError

HEAD_BYTES: Final = 64 * 1024
"""How much of a file is looked at; a WAV header is longer only if something is wrong with it."""

ALLOWED: Final = ("wav", "mp3", "flac", "ogg", "m4a", "mp4", "webm")
_UNKNOWN_SIZES: Final = frozenset({0, 0xFFFFFFFF})
_FMT_BYTES: Final = 16
_SYNC: Final = 0xE0
_RESERVED: Final = 3
_RESERVED_RATE: Final = 15


def media_type(head: bytes, *, whole: bool) -> str:
    """Give the media type; ``whole`` says that ``head`` is all there is.

    RejectedError: unsupported_audio for what is no recording, broken_audio for one that cannot be played.
    """
    if not head:
        raise _broken("the file is empty")
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        _check_wav(head, whole=whole)
        return "audio/wav"
    if head.startswith(b"fLaC"):
        return "audio/flac"
    if head.startswith(b"OggS"):
        return "audio/ogg"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "audio/webm"
    if head[4:8] == b"ftyp":
        return "audio/mp4"
    if head.startswith(b"ID3") or _is_mpeg_frame(head):
        return "audio/mpeg"
    raise RejectedError(
        Code.UNSUPPORTED_AUDIO,
        f"the file is none of {', '.join(ALLOWED)}",
        member="file",
        allowed=list(ALLOWED),
    )


def _is_mpeg_frame(head: bytes) -> bool:
    """Recognise the header of an MPEG audio frame: sync, and no field with a reserved value."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & _SYNC != _SYNC:  # noqa: PLR2004 - a header of four bytes
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and bitrate != _RESERVED_RATE and rate != _RESERVED


def _check_wav(head: bytes, *, whole: bool) -> None:
    """Walk the chunks up to the samples; raises broken_audio where they cannot be played."""
    position, formatted = 12, False
    while position + 8 <= len(head):
        name = head[position : position + 4]
        size: int = struct.unpack_from("<I", head, position + 4)[0]
        body = position + 8
        if name == b"fmt ":
            _check_format(head[body : body + size])
            formatted = True
        elif name == b"data":
            if not formatted:
                raise _broken("the WAV file has samples before it says of which form")
            streamed = struct.unpack_from("<I", head, 4)[0] in _UNKNOWN_SIZES
            if len(head) <= body or (size == 0 and not streamed):
                raise _broken("the WAV file has no samples")
            return
        position = body + size + size % 2
    if whole or not formatted:
        raise _broken(f"the WAV file has no {'data' if formatted else 'fmt'} chunk")


def _check_format(body: bytes) -> None:
    if len(body) < _FMT_BYTES:
        raise _broken("the WAV file's fmt chunk is too short")
    _, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", body)
    for name, value in (
        ("channels", channels),
        ("sample rate", rate),
        ("block size", block),
        ("bits a sample", bits),
    ):
        if value == 0:
            raise _broken(f"the WAV file says {name} 0")


def _broken(detail: str) -> RejectedError:
    return RejectedError(Code.BROKEN_AUDIO, detail, member="file")
