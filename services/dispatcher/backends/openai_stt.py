"""Servers with OpenAI's transcription: speaches, faster-whisper servers, vLLM, LocalAI."""

from typing import Final

from schemas.requests import SpeechRequest
from services.dispatcher.backends import openai_health
from services.dispatcher.backends.speech import Asked, Dialect
from services.dispatcher.backends.transcripts import parse

TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
TRANSLATIONS: Final = "/v1/audio/translations"


def asked(request: SpeechRequest, model: str | None) -> Asked:
    """List the form's fields. The model goes by both names that servers know it by."""
    listed = [("response_format", "verbose_json"), ("temperature", str(request.temperature))]
    if model is not None:
        listed += [("model", model), ("model_name", model)]
    if request.language is not None:
        listed.append(("language", request.language))
    if request.prompt:
        listed.append(("prompt", request.prompt))
    if request.word_timestamps:
        listed += [("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")]
    return Asked(path=TRANSLATIONS if request.translate else TRANSCRIPTIONS, fields=listed)


DIALECT: Final = Dialect(asked=asked, read=parse, probe=openai_health.probe)
