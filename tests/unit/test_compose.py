"""compose.yaml and its Dockerfile, held to their schema, to the real loader and to the settings."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from schemas import generate
from services.settings import Settings

ROOT = generate.ROOT
BIN = Path(sys.executable).parent
CONF = "services/up/nats-server.conf"
OTHERS = {"nats": {"GOMEMLIMIT"}}
GPU = re.compile(r"IMAGE_GEN_URL_[1-9][0-9]*|WHISPER_URL")
ONCE = {"volumes", "init", "init-demo"}
ENDING_S = 10
"""What a dispatcher needs to end after its drain."""

Json = dict[str, Any]  # Any: what the loader made of the file


def tool(*words: str) -> str:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TASKFOLD_", "IMAGE_GEN_", "WHISPER_", "COMPOSE_"))
    }
    command = [str(BIN / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=ROOT, env=inherited, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@cache
def services() -> dict[str, Json]:
    """Give every service as the loader understands it, without anybody's `.env`."""
    options = ("--env-file", os.devnull, "--profile", "demo")
    found: dict[str, Json] = json.loads(tool("docker-compose", *options, "config", "--format", "json"))[
        "services"
    ]
    return found


SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]


def seconds(duration: str) -> float:
    return sum(
        float(number) * {"h": 3600, "m": 60, "s": 1}[unit]
        for number, unit in re.findall(r"([\d.]+)([hms])", duration)
    )


def test_it_is_valid_by_the_schema_of_compose_files() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


@pytest.mark.parametrize("profile", [(), ("--profile", "demo")])
def test_compose_itself_can_load_it(profile: tuple[str, ...]) -> None:
    assert tool("docker-compose", *profile, "config", "-q") == ""


def test_the_dockerfile_has_nothing_that_hadolint_minds() -> None:
    assert tool("hadolint", "deploy/Dockerfile") == ""


@pytest.mark.parametrize("name", SERVICES)
def test_every_name_in_an_environment_is_one_that_is_read(name: str) -> None:
    known = {f"TASKFOLD_{field.name.upper()}" for field in msgspec.structs.fields(Settings)}
    if name == "nats":
        known = set(re.findall(r"\$(TASKFOLD_\w+)", (ROOT / CONF).read_text(encoding="utf-8")))
    given = set(services()[name].get("environment", {}))

    assert {one for one in given if not GPU.fullmatch(one)} <= known | OTHERS.get(name, set())
    if name == "nats":
        assert known <= given


def test_every_variable_that_it_asks_for_is_a_setting() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    known = {f"TASKFOLD_{field.name.upper()}" for field in msgspec.structs.fields(Settings)}

    asked = set(re.findall(r"\$\{(\w+)", text))

    assert asked
    assert asked <= known


def test_both_that_fill_the_registry_know_the_same_gpus() -> None:
    usual, demo = (services()[name]["environment"] for name in ("init", "init-demo"))

    assert usual.items() <= demo.items()
    assert {name for name in demo if name not in usual} == {
        f"IMAGE_GEN_URL_{number}" for number in (101, 102, 103)
    }


def test_only_the_demo_is_behind_a_profile() -> None:
    behind = {name for name, service in services().items() if service.get("profiles")}

    assert behind == {"gpusim-1", "gpusim-2", "gpusim-3", "init-demo"}


def test_dispatchers_can_be_scaled() -> None:
    assert not {"container_name", "ports", "volumes"} & set(services()["dispatcher"])


def test_only_the_api_is_reached_from_outside_and_from_this_machine_alone() -> None:
    open_ports = {name: service["ports"] for name, service in services().items() if service.get("ports")}

    assert list(open_ports) == ["api"]
    assert [port["host_ip"] for port in open_ports["api"]] == ["127.0.0.1"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_next_to_nothing(name: str) -> None:
    service = services()[name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["init"] is True
    assert service["user"] == "10001:10001"
    assert "privileged" not in service
    assert int(service["mem_limit"]) <= 2**30
    assert 0 < service["cpus"] <= 2


@pytest.mark.parametrize("name", SERVICES)
def test_what_stays_is_started_again_and_looked_at(name: str) -> None:
    service = services()[name]

    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    assert ("healthcheck" in service) is (name not in ONCE)


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_waited_for_is_ready_or_done(name: str) -> None:
    for other, how in services()[name].get("depends_on", {}).items():
        expected = "service_completed_successfully" if other in ONCE else "service_healthy"
        assert how["condition"] == expected, other


def test_somebody_waits_for_everything_that_ends() -> None:
    # `docker compose up --wait` takes the end of a container for a failure, unless it is waited for.
    awaited = {other for service in services().values() for other in service.get("depends_on", {})}

    assert awaited >= ONCE


def test_the_image_is_built_once_and_never_looked_for_elsewhere() -> None:
    ours = {name: service for name, service in services().items() if service["image"] == "taskfold"}

    assert set(services()) - set(ours) == {"nats"}
    assert [name for name, service in ours.items() if "build" in service] == ["volumes"]
    assert {service["pull_policy"] for service in ours.values()} == {"never"}


def test_a_dispatcher_is_given_longer_than_its_drain() -> None:
    dispatcher = services()["dispatcher"]
    drain = float(dispatcher["environment"]["TASKFOLD_DRAIN_GRACE_S"])

    assert seconds(dispatcher["stop_grace_period"]) >= drain + ENDING_S
    assert seconds(services()["nats"]["stop_grace_period"]) >= 30


def test_the_folders_that_are_mounted_are_in_the_image_and_owned_by_its_user() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    user = services()["api"]["user"]
    targets = {
        mount["target"]
        for service in services().values()
        for mount in service.get("volumes", [])
        if mount["type"] == "volume"
    }

    assert targets == {"/data", "/nats"}
    assert f"USER {user}\n" in dockerfile
    assert all(f"--chown={user} {target} {target}\n" in dockerfile for target in targets)
