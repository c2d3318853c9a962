"""The command line: what it shows, and that mistakes are one line."""

import socket
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from services.__main__ import main
from services.cli.failures import Exit
from services.gpusim.model import ProfileName

PROCESSES = ("up", "init", "api", "projector", "dispatcher", "gpusim")
USERS = (
    *(
        "submit",
        "watch",
        "get",
        "history",
        "batch",
        "cancel",
        "erase",
        "tasks",
        "counts",
        "dead",
        "replay",
        "redrive",
        "queues",
        "pause",
        "resume",
        "backends",
        "top",
        "simulate",
    ),
)
COMMANDS = (*USERS, "backup", "restore", "doctor", "config", "completion", *PROCESSES)
WITH_SETTINGS = ("up", "init", "api", "projector", "dispatcher", "config", "doctor")


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env=env).invoke(main, arguments)


def test_the_help_lists_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_in_one_sentence_what_it_does(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    text = command.help or ""
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
        ("gpusim", "a1111", "--keeps", "0"),
        ("gpusim", "a1111", "--load-s", "long"),
        ("watch",),
        ("tasks", "--unknown"),
        ("backends", "paint"),
        ("backends", "--json", "on", "image-1"),
        ("backends", "--url", "http://a", "on", "image-1"),
        ("backends", "set", "image-1"),
        ("backends", "add", "gpu"),
        ("backends", "add", "gpu", "http://gpu", "--label", "=b"),
        ("backends", "announce", "gpu", "http://gpu", "--ttl", "soon"),
        ("pause",),
        ("submit", "image", "fox", "--width", "wide"),
        ("submit", "image", "fox", "--priority", "urgent"),
        ("submit", "speech", "not-there.wav"),
        ("completion", "powershell"),
        ("simulate", "--policy", "coin"),
        ("simulate", "--load", "0"),
        ("simulate", "--tasks", "0"),
        ("simulate", "--file", "not-there.jsonl"),
        ("simulate", "--file", "-", "--scenario", "unequal"),
    ],
)
def test_wrong_usage_is_one_line_that_says_where_to_read_on_and_exit_code_2(
    arguments: tuple[str, ...],
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("taskfold: ")
    assert result.stderr.count("\n") == 1
    assert "--help`" in result.stderr or arguments[0] == "gpusim"


def test_every_server_that_can_be_simulated_can_be_asked_for() -> None:
    command = main.get_command(click.Context(main), "gpusim")
    assert command is not None
    (profile,) = (parameter.type for parameter in command.params if parameter.name == "profile")
    assert isinstance(profile, click.Choice)
    assert set(profile.choices) == set(ProfileName)


def test_a_mistyped_command_is_told_what_there_is() -> None:
    assert "'watch'" in run("wacth").stderr


@pytest.mark.parametrize("arguments", [(), ("submit",)])
def test_nothing_asked_for_shows_the_help(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.output


def test_the_help_explains_every_exit_code() -> None:
    output = run("--help").output
    for code in Exit:
        assert f"\n    {int(code)} " in output or code is Exit.PIPE


@pytest.mark.parametrize("name", WITH_SETTINGS)
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


def test_config_as_json_has_each_setting() -> None:
    result = run("config", "--json", env={"TASKFOLD_API_PORT": "9999"})
    document = msgspec.json.decode(result.output)
    assert document["api_port"]["value"] == 9999
    assert document["api_port"]["source"] == "environment"
    assert all(setting["meaning"] for setting in document.values())


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_config_masks_secrets(flags: tuple[str, ...]) -> None:
    result = run(
        "config",
        *flags,
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


@pytest.mark.parametrize(
    "arguments",
    [["--help"], *([name, "--help"] for name in ("gpusim", "config", "api", "watch", "submit"))],
)
def test_a_command_does_not_import_what_others_need(arguments: list[str]) -> None:
    assert not imported(
        arguments,
        "litestar",
        "nats",
        "aiosqlite",
        "aiohttp",
        "rich.live",  # structlog imports the rest of rich
        "services.up.main",
        "services.cli.client",
    )


def test_a_process_does_not_import_the_user_s_side() -> None:
    assert not imported(["api", "--help"], "services.cli.commands", "services.cli.submission")


def imported(arguments: list[str], *modules: str) -> list[str]:
    """Say which of these modules are there once a command has run."""
    script = (
        "import sys; from services.__main__ import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        f"print(*[m for m in {modules!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("arguments", "stdin", "part"),
    [
        (("submit", "image", "-"), b"\xff\xfe", "not UTF-8"),
        (("submit", "image", "\udcff"), b"", "not UTF-8"),
        (("submit", "image", "fox", "-o", "missing/fox.png"), b"", "no folder missing"),
        (("submit", "image", "fox", "-o", "-", "--json"), b"", "choose one"),
        (("get", "x", "-o", "-", "--json"), b"", "choose one"),
        (("tasks", "--url", "nowhere"), b"", "is no address"),
        (("tasks", "--url", "ftp://nowhere"), b"", "is no address"),
        (("doctor", "--url", "nowhere", "--json", "--extra"), b"", "--extra"),
    ],
)
def test_what_cannot_be_sent_is_wrong_usage(
    arguments: tuple[str, ...], stdin: bytes, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments, input=stdin)
    assert result.exit_code == 2
    assert result.stderr.startswith("taskfold: ")
    assert part in result.stderr


def test_doctor_tells_which_port_is_taken_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = str(other.getsockname()[1])
        result = run(
            "doctor",
            "--json",
            env={
                "TASKFOLD_API_PORT": port,
                "TASKFOLD_NATS_PORT": "0",
                "TASKFOLD_DATA_DIR": str(tmp_path / "not" / "yet"),
                "TASKFOLD_URL": "",
            },
        )
    assert result.exit_code == 1
    found = {finding["what"]: finding for finding in msgspec.json.decode(result.stdout)["findings"]}
    assert found["api_port"]["level"] == "fail"
    assert "TASKFOLD_API_PORT" in found["api_port"]["advice"]
    assert found["data_dir"]["level"] != "fail"
    assert found["nats-server"]["level"] == "warn"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_each_shell_names_the_program(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_TASKFOLD_COMPLETE" in result.output


def test_completion_knows_the_commands_and_their_options() -> None:
    for words, wanted in (("taskfold wa", "watch"), ("taskfold submit image --neg", "--negative-prompt")):
        last = str(len(words.split()) - 1)
        env = {"_TASKFOLD_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": last}
        result = CliRunner(env=env).invoke(main, [], prog_name="taskfold")
        assert wanted in result.output
