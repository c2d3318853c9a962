"""Real processes as their units start them, with the test in systemd's place.

The test hears what a process says, and does to it what systemd would. Of the sandbox the one piece is put
on that a kernel grants without root and that an interpreter could stumble over: no memory that is both
written and executed.
"""

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from services import clock
from tests.acceptance.conftest import MakeCluster
from tests.cluster import PATIENCE_S, Cluster

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
NAMES = ("api", "projector", "dispatcher@")
LIMIT_S = 0.9
CONFINED = """
import ctypes, os, sys
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, REFUSE_EXEC_GAIN = 38, 65, 1
prctl = ctypes.CDLL(None).prctl
prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0)  # refused by kernels before 6.3
os.execv(sys.argv[1], sys.argv[1:])
"""
STUCK = """
import sys, time
from services import process, supervision
from services.settings import Settings

def hang():
    time.sleep(600)

async def main(settings, stop):
    supervision.ready("works")
    await stop.wait()
    hang()

process.run("stuck", main, Settings())
"""

Said = dict[str, str]


class Service:
    """A process and the socket at which it is heard."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        folder.mkdir(parents=True)
        self._log = folder / "log"
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = clock.new_name()  # an abstract one, as a folder of a test may have too long a path
        self._heard.bind(f"\0{name}")
        self._heard.settimeout(0)
        ours = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": str(round(LIMIT_S * 1_000_000))}
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CONFINED, *command],
                env={**environment, **ours},
                stdout=output,
                stderr=output,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def hear(self) -> Said:
        """Give the next datagram, by the names in it."""
        datagram = await asyncio.get_running_loop().sock_recv(self._heard, 4096)
        return dict(line.split("=", 1) for line in datagram.decode().splitlines())

    async def hear_of(self, name: str) -> tuple[Said, list[Said]]:
        """Wait for a word, and give what was said with it and before it."""
        before: list[Said] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                while name not in (said := await self.hear()):
                    before.append(said)
        except TimeoutError:
            raise AssertionError(f"never heard of {name}\n{self.log}") from None
        return said, before

    async def falls_silent(self) -> None:
        """Wait until systemd would give it up."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(LIMIT_S):
                        await self.hear()

    async def ended(self) -> int:
        return await asyncio.to_thread(self._process.wait, PATIENCE_S)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._heard.close()


@pytest.fixture
async def cluster(make_cluster: MakeCluster) -> Cluster:
    """Give a NATS server that init has made ready, and nothing else that runs."""
    cluster = make_cluster()
    await cluster.start()
    return cluster


def of_unit(name: str, key: str) -> str:
    [only] = re.findall(rf"^{key}=(.*)$", (FOLDER / f"taskfold-{name}.service").read_text(), re.MULTILINE)
    return str(only)


@contextlib.asynccontextmanager
async def started(cluster: Cluster, name: str) -> AsyncIterator[Service]:
    """Start what a unit starts, from where this test runs."""
    program, *arguments = of_unit(name, "ExecStart").split()
    assert program.endswith("/bin/taskfold")
    command = [sys.executable, "-m", "services", *arguments]
    service = Service(command, cluster.environment(), cluster.folder / "systemd" / name)
    try:
        yield service
    finally:
        # In a thread, as the process may need a moment to die.
        await asyncio.to_thread(service.close)


async def test_the_api_is_ready_once_it_answers(cluster: Cluster) -> None:
    async with started(cluster, "api") as api:
        said, _ = await api.hear_of("READY")
        status, _ = await cluster.ask("GET", "/healthz")

        assert status == 200
        assert said == {"READY": "1", "STATUS": f"listens on {cluster.url}"}


async def test_the_api_is_ready_without_nats_since_it_says_what_is_lacking(cluster: Cluster) -> None:
    cluster.nats.stop()

    async with started(cluster, "api") as api:
        await api.hear_of("READY")
        status, _ = await cluster.ask("GET", "/readyz")

        assert status == 503


@pytest.mark.parametrize("name", ["projector", "dispatcher@"])
async def test_the_others_are_ready_once_they_have_what_they_work_with(cluster: Cluster, name: str) -> None:
    cluster.nats.stop()

    async with started(cluster, name) as service:
        waiting = [await service.hear() for _ in range(4)]
        assert waiting == [{"WATCHDOG": "1"}] * 4
        assert not cluster.readmodel.exists()
        cluster.nats.start()
        await service.hear_of("READY")

        assert cluster.readmodel.exists() == (name == "projector")


@pytest.mark.parametrize("name", NAMES)
async def test_a_service_lives_until_it_is_asked_to_stop_and_says_so(cluster: Cluster, name: str) -> None:
    async with started(cluster, name) as service:
        await service.hear_of("READY")
        for _ in range(3):
            await service.hear_of("WATCHDOG")
        service.signal(signal.SIGTERM)
        _, before = await service.hear_of("STOPPING")

        assert await service.ended() == 0, service.log
        assert all(said == {"WATCHDOG": "1"} for said in before)


@pytest.mark.parametrize("name", NAMES)
async def test_a_service_that_is_frozen_falls_silent(cluster: Cluster, name: str) -> None:
    async with started(cluster, name) as service:
        await service.hear_of("READY")
        await service.hear_of("WATCHDOG")
        service.signal(signal.SIGSTOP)
        await service.falls_silent()
        service.signal(signal.SIGCONT)

        await service.hear_of("WATCHDOG")


async def test_a_loop_that_is_stuck_falls_silent_and_its_stack_is_in_the_log(cluster: Cluster) -> None:
    variable, _, value = of_unit("dispatcher@", "Environment").partition("=")
    environment = {**cluster.environment(), variable: value}
    service = Service([sys.executable, "-c", STUCK], environment, cluster.folder / "systemd" / "stuck")
    try:
        await service.hear_of("READY")
        await service.hear_of("WATCHDOG")
        service.signal(signal.SIGTERM)
        await service.hear_of("STOPPING")
        await service.falls_silent()
        service.signal(signal.SIGABRT)  # as systemd does

        assert await service.ended() == -signal.SIGABRT
        assert re.search(r"Fatal Python error: Aborted(.|\n)* in hang\n", service.log)
    finally:
        service.close()
