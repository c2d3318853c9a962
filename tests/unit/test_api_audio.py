"""Recordings are told from other files by their first bytes."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Code, RejectedError
from services.api.audio import media_type
from tests.api import wav


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\x00" * (len(body) % 2)


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def fmt(channels: int = 1, rate: int = 16_000, block: int = 2, bits: int = 16) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", 1, channels, rate, rate * block, block, bits))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (wav(), "audio/wav"),
        (riff(chunk(b"LIST", b"abc"), fmt(), chunk(b"data", b"\x00\x00")), "audio/wav"),
        (riff(fmt(), b"data" + struct.pack("<I", 0) + b"\x01\x02", size=0xFFFFFFFF), "audio/wav"),
        (b"fLaC\x00\x00\x00\x22", "audio/flac"),
        (b"OggS\x00\x02", "audio/ogg"),
        (b"\x1a\x45\xdf\xa3\x9f\x42", "audio/webm"),
        (b"\x00\x00\x00\x20ftypM4A ", "audio/mp4"),
        (b"ID3\x04\x00", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "audio/mpeg"),
    ],
)
def test_recordings_are_recognised(head: bytes, kind: str) -> None:
    assert media_type(head, whole=True) == kind


@pytest.mark.parametrize(
    "head",
    [
        b"\x89PNG\r\n\x1a\n",
        b"%PDF-1.7",
        b"hello",
        b"PK\x03\x04",
        b"\xff\xff\xff\xff",
        b"\xff\xd8\xff\xe0",
        b"RIFF",
    ],
)
def test_other_files_are_refused_with_what_is_allowed(head: bytes) -> None:
    with pytest.raises(RejectedError) as refused:
        media_type(head, whole=True)
    assert refused.value.code is Code.UNSUPPORTED_AUDIO
    assert "wav" in refused.value.extra["allowed"]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        riff(),
        riff(fmt()),
        riff(chunk(b"data", b"\x00\x00")),
        riff(chunk(b"data", b"\x00\x00"), fmt()),
        riff(fmt(channels=0), chunk(b"data", b"\x00\x00")),
        riff(fmt(rate=0), chunk(b"data", b"\x00\x00")),
        riff(fmt(block=0), chunk(b"data", b"\x00\x00")),
        riff(fmt(bits=0), chunk(b"data", b"\x00\x00")),
        riff(chunk(b"fmt ", b"\x01\x00"), chunk(b"data", b"\x00\x00")),
        riff(fmt(), chunk(b"data", b"")),
        riff(fmt(), chunk(b"data", b""), chunk(b"LIST", b"abcd")),
        wav()[:20],
    ],
)
def test_a_recording_that_cannot_be_played_is_broken(head: bytes) -> None:
    with pytest.raises(RejectedError) as refused:
        media_type(head, whole=True)
    assert (refused.value.code, refused.value.member) == (Code.BROKEN_AUDIO, "file")


def test_a_long_chunk_before_the_samples_is_no_fault() -> None:
    head = riff(fmt(), chunk(b"LIST", b"x" * 100_000))[: 64 * 1024]
    assert media_type(head, whole=False) == "audio/wav"


@given(head=st.binary(max_size=200), whole=st.booleans())
def test_any_bytes_are_recognised_or_refused(head: bytes, *, whole: bool) -> None:
    for start in (b"", b"RIFF\x00\x00\x00\x00WAVE", b"RIFF\x10\x00\x00\x00WAVEfmt "):
        with contextlib.suppress(RejectedError):
            assert media_type(start + head, whole=whole).startswith("audio/")
