"""A transcript and the forms in which the OpenAI API gives it.

Pure; times are seconds from the start of the audio.
"""

import enum

import msgspec


class ResponseFormat(enum.StrEnum):
    """What `response_format` may be."""

    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VERBOSE_JSON = "verbose_json"
    VTT = "vtt"


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """One word, its leading space included."""

    start: float
    end: float
    word: str
    probability: float


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One piece, about a sentence, as the model heard it."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] | None


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """All that was heard."""

    language: str
    duration: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The whole on one line."""
        return "".join(segment.text for segment in self.segments).strip()


def rendered(transcript: Transcript, form: ResponseFormat, task: str) -> tuple[str, bytes]:
    """Give the content type and the body of an answer."""
    match form:
        case ResponseFormat.JSON:
            return "application/json", msgspec.json.encode({"text": transcript.text})
        case ResponseFormat.VERBOSE_JSON:
            return "application/json", msgspec.json.encode(_verbose(transcript, task))
        case ResponseFormat.TEXT:
            return "text/plain", transcript.text.encode()
        case ResponseFormat.SRT:
            return "text/plain", _srt(transcript).encode()
        case ResponseFormat.VTT:
            return "text/vtt", _vtt(transcript).encode()


def _verbose(transcript: Transcript, task: str) -> dict[str, object]:
    words = [word for segment in transcript.segments for word in segment.words or ()]
    return {
        "task": task,
        "language": transcript.language,
        "duration": transcript.duration,
        "text": transcript.text,
        "words": words or None,
        "segments": transcript.segments,
    }


def _srt(transcript: Transcript) -> str:
    return "".join(
        f"{number}\n{_stamp(segment.start, ',')} --> {_stamp(segment.end, ',')}\n{segment.text.strip()}\n\n"
        for number, segment in enumerate(transcript.segments, start=1)
    )


def _vtt(transcript: Transcript) -> str:
    cues = (
        f"{_stamp(segment.start, '.')} --> {_stamp(segment.end, '.')}\n{segment.text.strip()}\n\n"
        for segment in transcript.segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def _stamp(seconds: float, mark: str) -> str:
    """Write HH:MM:SS and milliseconds after the mark."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{mark}{thousandths:03}"
