"""What stands fenced as ``console``, which no test can run, names only what exists."""

import itertools
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from services.__main__ import main
from services.settings import load
from tests import documents

ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")
UNITS = documents.ROOT / "deploy" / "systemd"
Words = tuple[str, ...]


def typed(page: Path) -> list[Words]:
    """Give the commands of a page's consoles, each as words."""
    text = "\n".join(
        block.text.replace("\\\n", " ") for block in documents.blocks(page) if block.language == "console"
    )
    lines = [line[2:] for line in text.splitlines() if line.startswith(("$ ", "# "))]
    return [
        tuple(shlex.split(part, comments=True)) for line in lines for part in line.split(" && ") if part
    ]


def commands(name: str) -> list[tuple[dict[str, str], Words]]:
    """Give every command of this name in any page, and the environment that is set before it."""
    found: list[tuple[dict[str, str], Words]] = []
    for words in (words for page in documents.pages() for words in typed(page)):
        set_before = {}
        rest = words
        while rest and (match := ASSIGNMENT.fullmatch(rest[0])):
            set_before[match[1]] = match[2]
            rest = rest[1:]
        if rest[:1] == (name,) and (set_before, rest[1:]) not in found:
            found.append((set_before, rest[1:]))
    assert found, f"no page has a command {name}"
    return found


def shown(command: tuple[dict[str, str], Words]) -> str:
    return " ".join(command[1])


def test_make_has_the_targets_and_the_settings_before_it_are_right() -> None:
    targets = re.findall(r"^([\w./-]+):", (documents.ROOT / "Makefile").read_text(), re.MULTILINE)

    for environment, words in commands("make"):
        wanted = words[2:] if words[0] == "-C" else words
        assert set(wanted) <= set(targets), words
        load(environment)


@pytest.mark.parametrize("command", commands("taskfold"), ids=shown)
def test_taskfold_understands_what_is_typed(command: tuple[dict[str, str], Words]) -> None:
    group: click.Command = main
    words = list(command[1])
    with click.Context(main) as context:
        while isinstance(group, click.Group):
            name, found, words = group.resolve_command(context, words)
            assert found is not None, name
            group = found
        group.make_context("taskfold", words)


COMPOSE = [command for command in commands("docker") if command[1][0] == "compose"]


@pytest.mark.parametrize("command", COMPOSE, ids=shown)
def test_compose_has_the_services_and_profiles(command: tuple[dict[str, str], Words]) -> None:
    words = command[1]
    services = yaml.safe_load((documents.ROOT / "compose.yaml").read_text())["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
    verbs = {"up", "down", "stop", "logs", "ps"}

    for before, word in itertools.pairwise(words):
        if before == "--profile":
            assert word in profiles
        elif before == "--scale":
            assert word.partition("=")[0] in services
        elif not word.startswith("--") and word not in verbs:
            assert word in services, word


@pytest.mark.parametrize("command", commands("systemctl") + commands("journalctl"), ids=shown)
def test_systemd_has_the_units(command: tuple[dict[str, str], Words]) -> None:
    named = [word for word in command[1] if word.startswith("taskfold")]
    there = {unit.name for unit in UNITS.iterdir()}

    for word in named:
        unit = re.sub(r"@\w+$", "@", word)
        assert "*" in word or {unit, f"{unit}.service"} & there, word


def test_what_is_installed_for_systemd_is_there() -> None:
    for _, words in commands("install"):
        sources = [word for word in words[:-1] if "." in word and not word.startswith("/")]
        assert sources
        assert all(list(UNITS.glob(source)) for source in sources), sources
