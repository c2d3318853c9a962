"""The units in deploy/systemd: systemd accepts them, they are shut in, and they fit the settings.

They are looked at as installed, except that the program lies where this test runs.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.dispatcher.loop import LAST_WORDS_S
from services.settings import Settings, load
from services.up.nats_server import CONFIGURATION, STOP_GRACE_S

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
NOTIFYING = [FOLDER / f"taskfold-{name}.service" for name in ("api", "projector", "dispatcher@")]
# The scale goes to 10; what remains is the network, which they are there for.
MOST_EXPOSED = 1.5
SINCE_254 = re.compile(r"^Restart(?:Steps|MaxDelaySec)=.*\n", re.MULTILINE)

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def values(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(), re.MULTILINE)


def value(unit: Path, key: str) -> str:
    [only] = values(unit, key)
    return only


def sandbox(unit: Path) -> list[str]:
    _, _, rest = unit.read_text().partition("# The sandbox")
    return rest.partition("\n\n")[0].splitlines()[1:]


def analyze(*arguments: str, units: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:", "SYSTEMD_COLORS": "0"},
        check=False,
        capture_output=True,
        text=True,
    )


def version() -> int:
    said = subprocess.run(["systemd-analyze", "--version"], check=True, capture_output=True, text=True)
    return int(re.findall(r"systemd (\d+)", said.stdout)[0])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Write the units as this machine would have them, a dispatcher among them."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    units = tmp_path / "units"
    units.mkdir()
    for unit in (*SERVICES, FOLDER / "taskfold.target"):
        text = re.sub(r"^(ExecStart)=\S+", rf"\1={program}", unit.read_text(), flags=re.MULTILINE)
        if version() < 254:
            text = SINCE_254.sub("", text)
        (units / unit.name.replace("@.", "@1.")).write_text(text)
    return units


@needs_systemd
def test_systemd_has_nothing_to_say_against_the_units(installed: Path) -> None:
    names = sorted(str(path) for path in installed.iterdir())

    answer = analyze("verify", "--man=no", *names, units=installed)

    assert (answer.returncode, answer.stderr) == (0, "")


@needs_systemd
def test_systemd_would_find_a_mistake_in_a_unit(installed: Path) -> None:
    unit = installed / "taskfold-api.service"
    unit.write_text(unit.read_text().replace("[Service]", "[Service]\nRestartt=no"))

    answer = analyze("verify", "--man=no", str(unit), units=installed)

    assert "Restartt" in answer.stderr


@needs_systemd
@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_a_service_is_hardly_exposed(service: Path, installed: Path) -> None:
    if version() < 250:
        pytest.skip("systemd-analyze looks at files only since version 250")
    name = service.name.replace("@.", "@1.")

    answer = analyze("security", "--no-pager", "--offline=true", name, units=installed)

    [level] = re.findall(r"Overall exposure level for \S+: ([\d.]+)", answer.stdout)
    assert float(level) < MOST_EXPOSED, answer.stdout


def test_every_service_is_in_the_same_sandbox() -> None:
    assert len(sandbox(SERVICES[0])) > 20
    assert {tuple(sandbox(service)) for service in SERVICES} == {tuple(sandbox(SERVICES[0]))}


def test_every_setting_of_the_example_exists_and_what_is_commented_out_is_the_default() -> None:
    lines = (FOLDER / "taskfold.env").read_text().splitlines()
    commented = dict(re.findall(r"^#((?:TASKFOLD_)\w+)=(.*)$", "\n".join(lines), re.MULTILINE))
    urls = dict(re.findall(r"^#((?:IMAGE_GEN|WHISPER)_URL_\w+)=(.*)$", "\n".join(lines), re.MULTILINE))
    active = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    assert active
    assert commented
    assert load(commented) == Settings()
    assert len(load({**active, **urls}).backends()) == len(urls) > 0


def test_the_example_leaves_to_the_units_what_the_units_set() -> None:
    example = (FOLDER / "taskfold.env").read_text()
    own = {
        line.partition("=")[0]
        for unit in SERVICES
        if values(unit, "EnvironmentFile")
        for line in values(unit, "Environment")
    }

    assert "TASKFOLD_DATA_DIR" in own
    assert not [name for name in own if re.search(rf"^#?{name}=", example, re.MULTILINE)]


def test_the_api_and_the_projector_share_the_folder_of_the_read_model() -> None:
    api, projector, _ = NOTIFYING

    for key in ("User", "StateDirectory", "Environment"):
        assert values(api, key) == values(projector, key)


def test_nats_gets_everything_that_its_configuration_asks_for() -> None:
    unit = FOLDER / "taskfold-nats.service"
    asked = set(re.findall(r"\$(TASKFOLD_\w+)", CONFIGURATION.read_text()))
    given = {line.partition("=")[0] for line in values(unit, "Environment")}

    assert asked < given
    assert value(unit, "ExecStart").endswith(f"services/up/{CONFIGURATION.name}")
    assert int(value(unit, "TimeoutStopSec")) > STOP_GRACE_S


def test_a_dispatcher_is_killed_only_after_its_grace() -> None:
    unit = FOLDER / "taskfold-dispatcher@.service"

    assert int(value(unit, "TimeoutStopSec")) >= Settings().drain_grace_s + LAST_WORDS_S + 10


def test_every_service_ends_before_nats_does() -> None:
    for unit in SERVICES:
        after = value(unit, "After").split()
        assert ("taskfold-nats.service" in after) == (unit.stem != "taskfold-nats")


@pytest.mark.parametrize("unit", NOTIFYING, ids=lambda path: path.stem)
def test_a_service_that_hangs_is_started_again(unit: Path) -> None:
    assert value(unit, "Type") == "notify"
    assert value(unit, "NotifyAccess") == "main"
    assert value(unit, "Restart") == "on-failure"
    assert int(value(unit, "WatchdogSec")) > 0


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_user_of_the_services_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()

    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(FOLDER / "taskfold.sysusers.conf")],
        check=True,
        capture_output=True,
    )

    users = (tmp_path / "etc" / "passwd").read_text()
    assert {value(unit, "User") for unit in SERVICES} == set(re.findall(r"^(\w+):", users, re.MULTILINE))


def test_every_command_of_the_units_is_one_of_ours() -> None:
    for unit in SERVICES:
        program, *arguments = value(unit, "ExecStart").split()
        if program.endswith("/taskfold"):
            asked = [sys.executable, "-m", "services", *arguments, "--help"]
            assert subprocess.run(asked, check=False, capture_output=True).returncode == 0, unit
