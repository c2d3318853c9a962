"""How whisper.cpp writes down what it heard: short segments, one a line. Pure."""

from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from services.gpusim.transcript import Segment, Transcript, Word

MAX_LENGTH = 60
"""Of a segment, in characters."""

_LANGUAGES = {"en": "english"}


def wrapped(segment: Segment, *, on_words: bool) -> list[Segment]:
    """Break a segment where it gets too long: between words, or wherever that is."""
    lines: list[list[Word]] = [[]]
    for word in segment.words or ():
        for piece in [word] if on_words else _pieces(word):
            if lines[-1] and len(_text(lines[-1])) + len(piece.word) > MAX_LENGTH:
                lines.append([])
            lines[-1].append(piece)
    return [_line(segment, words) for words in lines if words] or [segment]


def text(transcript: Transcript) -> str:
    """Put each segment on a line, with the space it begins with."""
    return "".join(f"{segment.text}\n" for segment in transcript.segments)


def verbose(transcript: Transcript) -> dict[str, object]:
    """Say all; the words, with their times, are always there."""
    return {
        "task": "transcribe",
        "language": _LANGUAGES[transcript.language],
        "duration": transcript.duration,
        "text": text(transcript),
        "segments": [
            {
                "id": number,
                "text": segment.text,
                "start": segment.start,
                "end": segment.end,
                "words": [msgspec.to_builtins(word) for word in segment.words or ()],
                "tokens": segment.tokens,
                "temperature": segment.temperature,
                "avg_logprob": segment.avg_logprob,
                "no_speech_prob": segment.no_speech_prob,
            }
            for number, segment in enumerate(transcript.segments)
        ],
    }


def _line(segment: Segment, words: list[Word]) -> Segment:
    return replace(
        segment, start=words[0].start, end=words[-1].end, text=_text(words), words=tuple(words), tokens=()
    )


def _text(words: list[Word]) -> str:
    return "".join(word.word for word in words)


def _pieces(word: Word) -> Iterator[Word]:
    """Cut a word into parts of a few letters, as the model's tokens are."""
    for start in range(0, len(word.word), 3):
        yield replace(word, word=word.word[start : start + 3])
