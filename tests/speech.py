"""Recorded speech with known text: LibriVox clips from the Debian package pocketsphinx-testdata."""

import re
from pathlib import Path

import pytest

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
