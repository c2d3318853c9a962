"""The two subtitle formats, SRT and WebVTT, from timed texts. Pure.

The one rule: whatever a text holds, it cannot end its cue or begin another.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from msgspec import Struct

_MAX_S: Final = 359_999.999  # 99:59:59.999, the most that the format of a time can say


class Cue(Struct, frozen=True, kw_only=True):
    """One line of text, shown between two times in seconds."""

    start: float
    end: float
    text: str


def srt(cues: Sequence[Cue]) -> str:
    blocks = (
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{_safe(cue.text)}\n"
        for number, cue in enumerate(cues, start=1)
    )
    return "\n".join(blocks)


def vtt(cues: Sequence[Cue]) -> str:
    blocks = (
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_escaped(_safe(cue.text))}\n" for cue in cues
    )
    return "\n".join(("WEBVTT\n", *blocks))


def _time(seconds: float, point: str) -> str:
    total_ms = round(timedelta(seconds=min(seconds, _MAX_S)) / timedelta(milliseconds=1))
    total_s, ms = divmod(total_ms, 1000)
    minutes, s = divmod(total_s, 60)
    hours, m = divmod(minutes, 60)
    return f"{hours:02}:{m:02}:{s:02}{point}{ms:03}"


def _safe(text: str) -> str:
    return text.replace("-->", "→")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
