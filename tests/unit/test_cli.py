"""The command line: what it shows, and that mistakes are one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from services.__main__ import main

COMMANDS = ("up", "init", "api", "projector", "dispatcher", "gpusim", "config")


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env=env).invoke(main, arguments)


def test_the_help_lists_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_in_one_sentence_what_it_does(name: str) -> None:
    text = main.commands[name].help or ""
    assert text.endswith(".")
    assert "\n" not in text
    assert run(name, "--help").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("launch",),
        ("up", "--fast"),
        ("gpusim",),
        ("gpusim", "telepathy"),
        ("gpusim", "sdcpp", "--port", "70000"),
        ("gpusim", "sdcpp", "--fail-rate", "2"),
    ],
)
def test_wrong_usage_ends_with_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "gpusim"])
def test_a_wrong_setting_is_one_line_and_exit_code_1(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKFOLD_API_PORT", "eighty")
    result = run(name)
    assert result.exit_code == 1
    assert result.stderr.startswith("taskfold: api_port: ")
    assert result.stderr.count("\n") == 1


def test_config_shows_each_setting_with_its_source_and_meaning() -> None:
    result = run("config", env={"TASKFOLD_API_PORT": "9999"})
    lines = [line.split(None, 3) for line in result.output.splitlines()]
    assert ["api_port", "9999", "environment"] in [line[:3] for line in lines]
    assert all(len(line) == 4 for line in lines), "each has a description"


def test_config_masks_secrets() -> None:
    result = run(
        "config",
        env={"IMAGE_GEN_URL_1": "http://gpu:1?api_key=abc", "TASKFOLD_NATS_URL": "nats://me:secret@n:4222"},
    )
    assert "abc" not in result.output
    assert "secret" not in result.output
    assert "api_key=***" in result.output


@pytest.mark.parametrize("place", ["before", "after", "environment", "default"])
def test_the_file_is_found_wherever_it_is_named(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ("taskfold.toml" if place == "default" else "other.toml")
    file.write_text("lanes = 5\n")
    match place:
        case "before":
            result = run("--config", str(file), "config")
        case "after":
            result = run("config", "--config", str(file))
        case "environment":
            result = run("config", env={"TASKFOLD_CONFIG": str(file)})
        case _:
            result = run("config")
    row = next(line for line in result.output.splitlines() if line.startswith("lanes "))
    assert row.split()[1:3] == ["5", file.name if place == "default" else str(file)]


@pytest.mark.parametrize("name", ["gpusim", "config"])
def test_a_command_does_not_import_what_others_need(name: str) -> None:
    script = (
        "import sys; from services.__main__ import main\n"
        f"main(['{name}', '--help'], standalone_mode=False)\n"
        "print([m for m in ('litestar', 'nats', 'aiosqlite', 'services.up.main') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
