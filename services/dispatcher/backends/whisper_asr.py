"""whisper-asr-webservice: ``POST /asr``, its options in the query, one model.

The one rule: it answers nothing while it works, so no answer is no sign of death.
"""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from msgspec import Struct
from msgspec.structs import replace

from schemas.requests import SpeechRequest
from services.dispatcher.backends.base import Health, Misconfigured, Ready
from services.dispatcher.backends.classify import OK, Broken, Reply, decoded, health
from services.dispatcher.backends.http import Endpoint
from services.dispatcher.backends.speech import Asked, Dialect
from services.dispatcher.backends.transcripts import Json, Transcript, parsed

ASR: Final = "/asr"
OPENAPI: Final = "/openapi.json"

_SEGMENT: Final = ("id", "seek", "start", "end", "text")
_WORDS: Final = 10
_WORD: Final = ("start", "end", "word")


class _Described(Struct, frozen=True):
    paths: dict[str, Any]  # Any: only the names of the paths matter


def asked(request: SpeechRequest, _model: str | None) -> Asked:
    """Write the query. It knows no temperature, and has the model that it was started with."""
    query = {
        "output": "json",
        "task": "translate" if request.translate else "transcribe",
        "encode": "true",
    }
    if request.language is not None:
        query["language"] = request.language
    if request.prompt:
        query["initial_prompt"] = request.prompt
    if request.word_timestamps:
        query["word_timestamps"] = "true"
    return Asked(path=f"{ASR}?{urlencode(query)}", file_field="audio_file")


def read(body: bytes) -> Transcript | None:
    """Read what it calls text; without a duration, the recording lasts until the last that was said."""
    raw = decoded(body, Json)
    if raw is None:
        return None
    segments = raw.get("segments")
    if isinstance(segments, list):
        raw["segments"] = [_named(segment) for segment in segments]
    transcript = parsed(raw)
    if transcript is None or transcript.duration is not None or not transcript.segments:
        return transcript
    return replace(transcript, duration=max(cue.end for cue in transcript.segments))


async def probe(endpoint: Endpoint, timeout_s: float) -> Health:
    """Ask for the description of its routes, for it has no health."""
    answer = await endpoint.get(OPENAPI, timeout_s)
    if isinstance(answer, Broken) or answer.status != OK:
        return health(answer)
    return Ready() if is_described(answer) else Misconfigured(f"{OPENAPI} does not describe {ASR}")


def is_described(answer: Reply) -> bool:
    """Whether this is the description of a server that has the route."""
    described = decoded(answer.body, _Described) if answer.status == OK else None
    return described is not None and ASR in described.paths


def _named(segment: object) -> object:
    """Name the members of a segment: up to 1.6, faster_whisper's are lists, and so are their words."""
    if not isinstance(segment, list):
        return segment
    named = _object(_SEGMENT, segment)
    words = segment[_WORDS] if len(segment) > _WORDS else None
    if isinstance(words, list):
        named["words"] = [_object(_WORD, word) for word in words if isinstance(word, list)]
    return named


def _object(names: Sequence[str], values: Sequence[object]) -> Json:
    return dict(zip(names, values, strict=False))  # what comes after is of no use


DIALECT: Final = Dialect(asked=asked, read=read, probe=probe)
