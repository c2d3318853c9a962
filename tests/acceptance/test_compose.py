"""compose.yaml, run without a container engine: its commands, environments, order and health checks.

The one rule: nothing is told here that the file says. Only what a container would have of its own is put in
place of it: a loopback address for a host name, a free port for a port, a folder for a volume.
"""

import asyncio
import contextlib
import graphlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import aiohttp
import pytest

from schemas import generate
from tests.cluster import eventually
from tests.nats import binary, free_port

CONF = "services/up/nats-server.conf"
SCALE = {"dispatcher": 3}
PROGRAMS = {
    "taskfold": [sys.executable, "-m", "services"],
    "python": [sys.executable],
    "nats-server": [binary()],
}
UNITS = {"h": 3600, "m": 60, "s": 1}

Json = dict[str, Any]  # Any: what the loader made of the file


def seconds(duration: str) -> float:
    return sum(float(n) * UNITS[unit] for n, unit in re.findall(r"([\d.]+)([hms])", duration))


def loaded(folder: Path) -> dict[str, Json]:
    """Let compose's own loader read a copy, beside which is nobody's `.env`."""
    (folder / CONF).parent.mkdir(parents=True)
    for name in ("compose.yaml", CONF):
        shutil.copy(generate.ROOT / name, folder / name)
    compose = str(Path(sys.executable).parent / "docker-compose")
    written = subprocess.run(
        [compose, "--profile", "demo", "config", "--format", "json"],
        cwd=folder,
        env={"PATH": os.defpath},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    services: dict[str, Json] = json.loads(written)["services"]
    return services


class Container:
    """One process of a service, and the health check that is written for it."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    async def ended(self, patience_s: float) -> int:
        try:
            return await asyncio.wait_for(self.process.wait(), patience_s)
        except TimeoutError:
            raise AssertionError(
                f"{self.name} did not end in {patience_s:g} s: {self.log.read_text()}"
            ) from None


class Project:
    """The services of the file, as processes of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services = loaded(folder / "project")
        self.ports = {
            (name, port): free_port() for name in self.services for port in sorted(self._listens(name))
        }
        self.running: dict[str, list[Container]] = {}

    def _listens(self, name: str) -> set[str]:
        """Give the ports of a service: those that others name, and those that its health check asks."""
        named = re.findall(rf"\b{name}:(\d+)", json.dumps(self.services))
        asked = re.findall(r"127\.0\.0\.1:(\d+)", json.dumps(self.services[name].get("healthcheck")))
        return {*named, *asked}

    def order(self) -> list[str]:
        needed = {name: set(service.get("depends_on", {})) for name, service in self.services.items()}
        return list(graphlib.TopologicalSorter(needed).static_order())

    def placed(self, name: str, text: str) -> str:
        """Put what is here in the place of what a container of this service would have."""
        for (other, port), real in self.ports.items():
            text = re.sub(rf"\b{other}:{port}\b", f"127.0.0.1:{real}", text)
            if other == name:
                text = re.sub(rf"(?<![\d.]){port}\b", str(real), text)
        for mount in self.services[name].get("volumes", []):
            volume = mount["type"] == "volume"
            here = str(self.folder / "volumes" / mount["source"]) if volume else mount["source"]
            text = re.sub(rf"(?<![\w/]){re.escape(mount['target'])}(?![\w-])", here, text)
        # A path that is no volume's is on a disk that cannot be written.
        text = re.sub(r"^/data$", str(self.folder / "read-only"), text)
        return text.replace("0.0.0.0", "127.0.0.1").replace("$$", "$")

    def command(self, name: str, words: list[str]) -> list[str]:
        program, *rest = words
        return [*PROGRAMS[program], *(self.placed(name, word) for word in rest)]

    def environment(self, name: str) -> dict[str, str]:
        given = self.services[name].get("environment", {})
        ours = {key: self.placed(name, value) for key, value in given.items() if value is not None}
        return {"PATH": os.defpath, "PYTHONPATH": str(generate.ROOT), **ours}

    async def up(self) -> None:
        for name in self.order():
            for other, how in self.services[name].get("depends_on", {}).items():
                await self._fulfilled(other, how["condition"])
            self.running[name] = [
                await self._started(name, number) for number in range(1, SCALE.get(name, 1) + 1)
            ]
        for name, service in self.services.items():
            if "healthcheck" in service:
                await self._fulfilled(name, "service_healthy")

    async def _started(self, name: str, number: int) -> Container:
        service = self.services[name]
        for mount in service.get("volumes", []):
            if mount["type"] == "volume":
                (self.folder / "volumes" / mount["source"]).mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{name}-{number}.log"
        entrypoint = service["entrypoint"] or ["taskfold"]
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *self.command(name, [*entrypoint, *(service["command"] or [])]),
                env=self.environment(name),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return Container(f"{name}-{number}", process, log)

    async def _fulfilled(self, name: str, condition: str) -> None:
        for container in self.running[name]:
            if condition == "service_completed_successfully":
                assert await container.ended(60) == 0, container.log.read_text()
            else:
                assert condition == "service_healthy"
                patience = seconds(self.services[name]["healthcheck"]["start_period"])
                await eventually(lambda: self.healthy(name), f"{name} is healthy", patience)
                assert container.process.returncode is None, container.log.read_text()

    async def healthy(self, name: str) -> bool:
        """Run the health check of a service as it is written; busybox's wget is replaced by a GET."""
        check = self.services[name]["healthcheck"]
        way, *words = check["test"]
        assert way == "CMD"
        limit = seconds(check["timeout"])
        if words[0] == "wget":
            return await asyncio.to_thread(_answers, self.placed(name, words[-1]), limit)
        process = await asyncio.create_subprocess_exec(
            *self.command(name, words),
            env=self.environment(name),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return await asyncio.wait_for(process.wait(), limit) == 0

    async def down(self) -> dict[str, int]:
        """Stop them in the reverse order, each in its grace; give the exit codes."""
        codes: dict[str, int] = {}
        for name in reversed(self.order()):
            grace = seconds(self.services[name].get("stop_grace_period", "10s"))
            for container in self.running[name]:
                if container.process.returncode is None:
                    container.process.terminate()
            for container in self.running[name]:
                codes[container.name] = await container.ended(grace)
        return codes

    async def kill(self) -> None:
        for container in (one for many in self.running.values() for one in many):
            with contextlib.suppress(ProcessLookupError):
                container.process.kill()
            await container.process.wait()


def _answers(url: str, limit: float) -> bool:
    try:
        with urlopen(url, timeout=limit) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    made = Project(tmp_path)
    yield made
    await made.kill()


class Client:
    """Somebody who submits, and remembers which process ran what."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url
        self.ran: set[str] = set()

    async def submit(self) -> None:
        body = {"prompt": "a red fox", "width": 256, "height": 256, "steps": 4}
        async with self._http.post(
            f"{self._url}/api/v1/image/async", json=body, headers={"prefer": "wait=60"}
        ) as answer:
            task = await answer.json()
        assert task["status"] == "DONE", task
        accept = {"accept": "application/json"}
        async with self._http.get(
            f"{self._url}/api/v1/tasks/{task['task_id']}/events", headers=accept
        ) as answer:
            events = (await answer.json())["events"]
        started = [event for event in events if event["type"] == "task.started"]
        self.ran |= {event["data"]["dispatcher"] for event in started}


async def test_it_starts_in_its_order_shares_the_work_of_three_dispatchers_and_stops_in_its_grace(
    project: Project,
) -> None:
    await project.up()
    assert [container.process.returncode for container in project.running["init-demo"]] == [0]

    async with aiohttp.ClientSession() as http:
        client = Client(http, f"http://127.0.0.1:{project.ports['api', '8080']}")

        async def all_have_worked() -> bool:
            async with asyncio.TaskGroup() as group:
                for _ in range(6):
                    group.create_task(client.submit())
            return len(client.ran) == 3

        await eventually(all_have_worked, "each dispatcher has run a task")
    codes = await project.down()

    assert sorted(name for name in codes if name.startswith("dispatcher")) == [
        "dispatcher-1",
        "dispatcher-2",
        "dispatcher-3",
    ]
    assert set(codes.values()) == {0}, codes
    assert not (project.folder / "read-only").exists()


async def test_a_health_check_says_so_when_its_process_is_gone(project: Project) -> None:
    await project.up()
    watched = [name for name, service in project.services.items() if "healthcheck" in service]

    await project.kill()

    # The projector leaves a sound file behind, which is what its check reads.
    assert [name for name in watched if await project.healthy(name)] == ["projector"]
