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
from services.dispatcher.backends.languages import code
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
    """``language`` is a code, or a name that has none here; ``duration`` in seconds of audio."""

    text: str
    language: str | None = None
    duration: float | None = None
    segments: tuple[Cue, ...] = ()
    words: tuple[Word, ...] = ()


def finished(transcript: Transcript | None, request: SpeechRequest) -> Finished | Failed:
    """End an attempt with what was read of its answer."""
    if transcript is None:
        return failed(ErrorClass.TRANSIENT, "bad_transcript", "the answer is no transcript in JSON")
    return Finished(
        outputs=(render(transcript, request),), text=transcript.text, audio_s=transcript.duration
    )


def parse(body: bytes) -> Transcript | None:
    """Read a transcript; None when there is neither a text nor a segment in it."""
    raw = decoded(body, Json)
    return None if raw is None else parsed(raw)


def parsed(raw: Json) -> Transcript | None:
    """Take from a decoded answer what makes sense; vLLM spells the duration as a string."""
    text, language, segments = raw.get("text"), raw.get("language"), _objects(raw.get("segments"))
    if not isinstance(text, str) and not isinstance(raw.get("segments"), list):
        return None
    nested = [word for segment in segments for word in _objects(segment.get("words"))]
    return Transcript(
        text=_clean(_whole(text, segments)),
        language=code(language) if isinstance(language, str) and language else None,
        duration=_seconds(raw.get("duration")),
        segments=tuple(filter(None, map(_cue, segments))),
        words=tuple(filter(None, map(_word, _objects(raw.get("words")) or nested))),
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


def _whole(text: object, segments: list[Json]) -> str:
    """Give the text; where it is the segments, one a line, a line may end within a word."""
    said = [part for segment in segments if isinstance(part := segment.get("text"), str)]
    if not isinstance(text, str):
        return "\n".join(said)
    return "".join(said) if text == "".join(f"{part}\n" for part in said) else text


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
    """Make one line of it, without the space before a segment."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
