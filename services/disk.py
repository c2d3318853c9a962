"""Waiting for the disk."""

import os
from pathlib import Path


def to_disk(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk; OSError as it comes."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
