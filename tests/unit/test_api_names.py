"""What an artifact's file is called, and what a browser may show of it."""

import pytest

from schemas.ids import ArtifactId
from services.api.names import disposition, filename
from services.artifacts import ArtifactInfo

TASK = "0199d4e8-7c1a-7000-8000-0123456789ab"


def stored(media_type: str, name: str | None = None, artifact_id: str = f"{TASK}-2-1") -> ArtifactInfo:
    return ArtifactInfo(
        artifact_id=ArtifactId(artifact_id),
        size=1,
        sha256="",
        media_type=media_type,
        filename=name,
        nuid="",
        chunks=1,
    )


@pytest.mark.parametrize(
    ("info", "download", "expected"),
    [
        (stored("image/png"), None, f'inline; filename="{TASK}-1.png"'),
        (stored("image/png"), "", f'attachment; filename="{TASK}-1.png"'),
        (stored("image/webp"), "fox.webp", 'attachment; filename="fox.webp"'),
        (stored("image/jpeg"), "fox.JPEG", 'attachment; filename="fox.JPEG"'),
        (stored("application/x-subrip", "talk.srt"), "", 'attachment; filename="talk.srt"'),
        (stored("audio/wav", None, "upload-1"), "", 'attachment; filename="upload-1.wav"'),
        (stored("text/plain; charset=utf-8", "a.txt"), None, 'inline; filename="a.txt"'),
        (
            stored("image/png"),
            "über.png",
            "attachment; filename=\"_ber.png\"; filename*=UTF-8''%C3%BCber.png",
        ),
        (stored("image/png"), 'a"b\r\nc/../d.png', 'attachment; filename="d.png"'),
        (stored("image/png"), '"\r\n', f'attachment; filename="{TASK}-1.png"'),
    ],
)
def test_a_file_has_a_name_that_says_what_it_is(
    info: ArtifactInfo, download: str | None, expected: str
) -> None:
    assert disposition(info, download).decode() == expected


@pytest.mark.parametrize("name", ["page.html", "page", "run.svg"])
def test_a_name_ends_as_the_type_does(name: str) -> None:
    info = stored("text/plain; charset=utf-8")

    assert disposition(info, name).decode() == f'attachment; filename="{name}.txt"'


@pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml", "application/xhtml+xml", "", "x/y"])
def test_what_a_browser_could_run_is_never_shown(media_type: str) -> None:
    assert disposition(stored(media_type), None).startswith(b"attachment;")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ("", None),
        ("C:\\music\\a.mp3", "a.mp3"),
        ("/etc/a.mp3", "a.mp3"),
        ('a"\x00b.mp3', "ab.mp3"),
        ("x" * 300 + ".mp3", "x" * 196 + ".mp3"),
    ],
)
def test_of_a_given_name_only_the_file_is_kept(given: str | None, kept: str | None) -> None:
    assert filename(given) == kept
