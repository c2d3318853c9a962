"""A backup on disk: a folder for each stream, laid out as the stock ``nats`` command has it.

The one rule: what carries the name of a backup is whole; it is written under another, and renamed.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import msgspec

from schemas import subjects
from services.bus.snapshots import CHUNK_BYTES, Description
from services.cli.failures import EndError, Exit
from services.disk import to_disk

_DESCRIPTION: Final = "backup.json"
_ARCHIVE: Final = "stream.arc.s2"
_OLDER_ARCHIVE: Final = "stream.tar.s2"
_SUMS: Final = "SHA256SUMS"
"""Ours alone, and only looked at when it is there: ``sha256sum --check`` reads it too."""


class Writing:
    """The folder of one stream while its archive arrives."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._sum = hashlib.sha256()
        self._file = (folder / _ARCHIVE).open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._sum.update(chunk)

    def end(self, description: Description) -> None:
        """Put the archive on disk, and beside it what describes it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        text = msgspec.json.format(msgspec.json.encode(description), indent=2)
        sums = f"{hashlib.sha256(text).hexdigest()}  {_DESCRIPTION}\n{self._sum.hexdigest()}  {_ARCHIVE}\n"
        for name, content in ((_DESCRIPTION, text), (_SUMS, sums.encode())):
            with (self._folder / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


@contextlib.contextmanager
def written(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes its name once the block has ended well."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EndError(Exit.USAGE, f"{folder} is there already; name a folder that is empty or new")
    target = folder.absolute()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir(mode=0o700)
        yield part
        part.replace(target)
        to_disk(target.parent)
    except OSError as error:
        raise EndError(Exit.USAGE, f"cannot write {folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read(folder: Path) -> list[Description]:
    """Check that a backup is whole and unchanged, and describe its streams, in the order of SAVED."""
    if not folder.is_dir():
        raise EndError(Exit.USAGE, f"there is no folder {folder}")
    missing = [name for name in subjects.SAVED if not (folder / name / _DESCRIPTION).is_file()]
    if missing:
        raise EndError(Exit.USAGE, f"{folder} is no whole backup: it lacks {', '.join(missing)}")
    try:
        for name in subjects.SAVED:
            _check(folder / name)
        return [_described(folder / name) for name in subjects.SAVED]
    except OSError as error:
        raise EndError(Exit.USAGE, f"cannot read {error.filename}: {error.strerror}") from None


def left_out(folder: Path) -> list[str]:
    """Name the streams of a backup that are none of ours."""
    return sorted(
        inner.name
        for inner in folder.iterdir()
        if inner.name not in subjects.SAVED and (inner / _DESCRIPTION).is_file()
    )


def chunks(folder: Path) -> Iterator[bytes]:
    """Read the archive of a stream, a piece at a time."""
    with _archive(folder).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _archive(folder: Path) -> Path:
    older = folder / _OLDER_ARCHIVE
    return older if older.exists() else folder / _ARCHIVE


def _check(folder: Path) -> None:
    sums = folder / _SUMS
    for line in sums.read_text("utf-8", "replace").splitlines() if sums.exists() else ():
        wanted, _, name = line.partition("  ")
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                raise EndError(Exit.USAGE, f"{folder / name} was changed since: it has another checksum")


def _described(folder: Path) -> Description:
    try:
        description = msgspec.json.decode((folder / _DESCRIPTION).read_bytes(), type=Description)
        description.held()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EndError(Exit.USAGE, f"{folder / _DESCRIPTION} describes no stream: {error}") from None
    if description.name != folder.name:
        raise EndError(Exit.USAGE, f"{folder} is a backup of {description.name}")
    _archive(folder).stat()
    return description
