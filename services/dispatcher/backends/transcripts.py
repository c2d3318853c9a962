"""From any server's verbose_json to one Transcript, and from that to the format a user asked for. Pure.

The one rule: the text is what matters; times, words and language are taken where they make sense and
left out where they do not.
"""

import math
from typing import Any, Final

import msgspec
from msgspec import Struct

from schemas.events import ErrorClass
from schemas.requests import SpeechRequest
from services.dispatcher.backends.base import Failed, Finished, Output, failed
from services.dispatcher.backends.classify import decoded
from services.dispatcher.backends.subtitles import Cue, srt, vtt

MEDIA_TYPES: Final = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
}


Json = dict[str, Any]  # Any: a JSON object of any shape; each member is checked where it is read


class Word(Struct, frozen=True, kw_only=True):
    """Times in seconds from the start of the recording."""

    word: str
    start: float
    end: float


class Transcript(Struct, frozen=True, kw_only=True):
    """``language`` is a code or a name, whichever the server gave; ``duration`` in seconds of audio."""

    text: str
    language: str | None = None
    duration: float | None = None
    segments: tuple[Cue, ...] = ()
    words: tuple[Word, ...] = ()


class _Verbose(Struct, frozen=True):
    """The members as loosely as servers fill them; vLLM spells the duration as a string."""

    text: Any = None  # Any: checked in parse, as all below
    language: Any = None
    duration: Any = None
    segments: Any = None
    words: Any = None


def finished(body: bytes, request: SpeechRequest) -> Finished | Failed:
    transcript = parse(body)
    if transcript is None:
        return failed(ErrorClass.TRANSIENT, "bad_transcript", "the answer is no transcript in JSON")
    return Finished(
        outputs=(render(transcript, request),), text=transcript.text, audio_s=transcript.duration
    )


def parse(body: bytes) -> Transcript | None:
    """Read a transcript; None when there is neither a text nor a segment in it."""
    raw = decoded(body, _Verbose)
    if raw is None:
        return None
    segments = tuple(filter(None, map(_cue, _objects(raw.segments))))
    if not isinstance(raw.text, str) and not isinstance(raw.segments, list):
        return None
    text = raw.text if isinstance(raw.text, str) else " ".join(cue.text for cue in segments)
    nested = [word for segment in _objects(raw.segments) for word in _objects(segment.get("words"))]
    return Transcript(
        text=_clean(text),
        language=raw.language.lower() if isinstance(raw.language, str) and raw.language else None,
        duration=_seconds(raw.duration),
        segments=segments,
        words=tuple(filter(None, map(_word, _objects(raw.words) or nested))),
    )


def render(transcript: Transcript, request: SpeechRequest) -> Output:
    """Write the transcript in the format of ``request.response_format``."""
    data = _written(transcript, request)
    return Output(data=data, media_type=MEDIA_TYPES[request.response_format])


def _written(transcript: Transcript, request: SpeechRequest) -> bytes:
    match request.response_format:
        case "json":
            return msgspec.json.encode({"text": transcript.text})
        case "verbose_json":
            return msgspec.json.encode(_verbose(transcript, translated=request.translate))
        case "text":
            return f"{transcript.text}\n".encode()
        case "srt":
            return srt(_cues(transcript)).encode()
        case "vtt":
            return vtt(_cues(transcript)).encode()


def _verbose(transcript: Transcript, *, translated: bool) -> dict[str, object]:
    body: dict[str, object] = {
        "task": "translate" if translated else "transcribe",
        "language": transcript.language,
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": [
            {"id": number, "start": cue.start, "end": cue.end, "text": cue.text}
            for number, cue in enumerate(transcript.segments)
        ],
    }
    if transcript.words:
        body["words"] = transcript.words
    return body


def _cues(transcript: Transcript) -> tuple[Cue, ...]:
    """Give the segments; a server that sends none gets one cue over the whole recording."""
    if transcript.segments or not transcript.text:
        return transcript.segments
    return (Cue(start=0.0, end=transcript.duration or 0.0, text=transcript.text),)


def _cue(segment: Json) -> Cue | None:
    text, start, end = segment.get("text"), _seconds(segment.get("start")), _seconds(segment.get("end"))
    if not isinstance(text, str) or start is None:
        return None
    return Cue(start=start, end=max(start, end or 0.0), text=_clean(text))


def _word(word: Json) -> Word | None:
    text, start, end = word.get("word"), _seconds(word.get("start")), _seconds(word.get("end"))
    if not isinstance(text, str) or start is None:
        return None
    return Word(word=text.strip(), start=start, end=max(start, end or 0.0))


def _objects(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _clean(text: str) -> str:
    """Join the lines that whisper.cpp writes one segment each, and drop the space before a segment."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
