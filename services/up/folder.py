"""The data folder: usable, with room, and ours alone. The one rule: every refusal names the folder."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from services.process import StartError

LOCK: Final = "taskfold.lock"
MIN_FREE_MIB: Final = 256
_PATIENCE_S: Final = 1.0
"""How long the children of a predecessor that was killed may hold its lock."""


@contextlib.contextmanager
def claim(folder: Path, free_bytes: Callable[[Path], int] | None = None) -> Iterator[int]:
    """Make the folder, check it and lock it; gives the lock's descriptor, which a child may inherit.

    Raises StartError when it cannot be made or written, is full, or belongs to another instance.
    """
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unusable(folder, error) from None
    try:
        _lock(lock, folder)
        _probe(lock, folder, free_bytes or _free_bytes)
        yield lock
    finally:
        os.close(lock)


def _lock(lock: int, folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StartError(
                f"another instance (process {holder}) uses the data folder {folder}; "
                "stop it, or set TASKFOLD_DATA_DIR to another folder"
            ) from None
        except OSError as error:
            raise _unusable(folder, error) from None
        return


def _probe(lock: int, folder: Path, free_bytes: Callable[[Path], int]) -> None:
    probe = folder / ".probe"
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        probe.write_bytes(bytes(65_536))
        probe.unlink()
        free_mib = free_bytes(folder) // 2**20
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        raise _unusable(folder, error) from None
    if free_mib < MIN_FREE_MIB:
        raise StartError(
            f"the data folder {folder} has {free_mib} MiB free and needs {MIN_FREE_MIB}; "
            "make room, or set TASKFOLD_DATA_DIR to another folder"
        )


def _free_bytes(folder: Path) -> int:
    numbers = os.statvfs(folder)
    return numbers.f_bavail * numbers.f_frsize


def _unusable(folder: Path, error: OSError) -> StartError:
    return StartError(
        f"cannot use the data folder {folder}: {error.strerror}; set TASKFOLD_DATA_DIR to another folder"
    )
