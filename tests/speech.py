"""Recorded speech with known text: LibriVox clips from the Debian package pocketsphinx-testdata."""

import hashlib
import re
import threading
from functools import cache
from pathlib import Path

import pytest

from services.gpusim.speech import Recognizer, Waveform
from services.gpusim.speech import load as really_load
from services.gpusim.transcript import Transcript

_PACKAGE = Path("usr/share/pocketsphinx/test/data/librivox")
_PLACES = (Path("/") / _PACKAGE, Path(__file__).parents[1] / ".cache" / "speech" / _PACKAGE)
_LINE = re.compile(r"<s> (?P<text>.*) </s> \((?P<name>[^)]+)\)")


def folder() -> Path:
    """Give the folder of the clips; skips the test where it cannot be had."""
    found = next((place for place in _PLACES if place.is_dir()), None)
    if found is None:
        pytest.skip("no recorded speech: `make test` fetches pocketsphinx-testdata on Debian")
    return found


def clips() -> dict[Path, str]:
    """Give every clip with what is said in it."""
    place = folder()
    lines = (place / "transcription").read_text().splitlines()
    return {place / f"{m['name']}.wav": m["text"] for line in lines if (m := _LINE.fullmatch(line))}


def clip(number: str = "0930") -> bytes:
    """Give the bytes of one clip, by the end of its name; the shortest by default."""
    return next(path for path in clips() if path.stem.endswith(f"-{number}")).read_bytes()


class _Remembering(Recognizer):
    """The real model, which says of what it has heard before what it has heard."""

    def __init__(self, real: Recognizer) -> None:
        self._real = real
        self._heard: dict[tuple[object, ...], Transcript] = {}

    def decode(self, content: bytes) -> Waveform:
        return self._real.decode(content)

    def transcribe(
        self,
        waveform: Waveform,
        stopped: threading.Event,
        *,
        prompt: str | None,
        temperature: float,
        words: bool,
    ) -> Transcript:
        key = (hashlib.sha256(waveform.tobytes()).digest(), prompt, temperature, words)
        if key not in self._heard:
            heard = self._real.transcribe(
                waveform, stopped, prompt=prompt, temperature=temperature, words=words
            )
            if stopped.is_set():
                return heard
            self._heard[key] = heard
        return self._heard[key]


@cache
def recognizer() -> Recognizer:
    """Give the one model of a test run: loading it, and listening, takes a second of both processors."""
    return _Remembering(really_load())
