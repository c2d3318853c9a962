"""House rules that no linter knows. Looks at every file that git would commit, as it lies there."""

import ast
import re
import subprocess
import typing
from pathlib import Path

import msgspec
import pytest

from schemas import envelope
from schemas.events import TOKENS, TaskEvent

ROOT = Path(__file__).parents[2]
MAX_LINES = 300
LONGER_ALLOWED = {"services/api/openapi.py"}  # a table of every route
BANNED_NAMES = {"utils", "util", "common", "core", "helpers", "helper", "lib", "models", "misc"}
BANNED_ENDINGS = ("Manager", "Handler", "Service", "Helper", "Base", "Impl", "Data", "Info")
# What may end so all the same, with its reason.
ENDINGS_ALLOWED = {"StreamInfo", "ArtifactInfo"}  # the words of JetStream's own API
# Built from parts, so that this file is not what it looks for.
BANNED_TEXT = {
    "a machine's path": "/" + "work" + "/",
    "a registry's host": "pypi" + r"\.org",
    "a package's host": "python" + "hosted",
    "an index's address": "index" + "-url",
    "another index": "extra" + "-index",
    "a home folder": "/" + r"home/\w" + "|" + "/" + r"root/\w",
}


def committed() -> list[Path]:
    """Give every file that is in git or would be added to it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


FILES = committed()
MODULES = [
    path
    for path in FILES
    if path.suffix == ".py"
    and path.relative_to(ROOT).parts[0] in ("schemas", "services", "tests", "benchmarks")
]
PRODUCT = [path for path in MODULES if path.relative_to(ROOT).parts[0] in ("schemas", "services")]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_look_at() -> None:
    assert len(PRODUCT) > 50
    assert ROOT / "pyproject.toml" in FILES


@pytest.mark.parametrize("module", PRODUCT, ids=name)
def test_a_module_fits_in_one_sitting(module: Path) -> None:
    lines = len(module.read_text(encoding="utf-8").splitlines())

    assert lines <= MAX_LINES or name(module) in LONGER_ALLOWED


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_a_module_opens_with_what_it_holds(module: Path) -> None:
    text = module.read_text(encoding="utf-8")

    assert not text or ast.get_docstring(ast.parse(text))


def test_nothing_is_named_after_nothing() -> None:
    parts = {part.removesuffix(path.suffix) for path in FILES for part in path.relative_to(ROOT).parts}

    assert not parts & BANNED_NAMES


def test_no_class_is_named_after_its_role_in_a_framework() -> None:
    named = {
        node.name
        for module in PRODUCT
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.lstrip("_").endswith(BANNED_ENDINGS)
    }

    assert named == ENDINGS_ALLOWED


@pytest.mark.parametrize("what", BANNED_TEXT)
def test_no_file_says_where_it_was_made(what: str) -> None:
    pattern = re.compile(BANNED_TEXT[what])
    found = [
        f"{name(path)}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]

    assert not found


def test_unit_tests_sleep_only_until_something_is_so() -> None:
    sleeping = [
        f"{name(module)}: {function.name}"
        for module in MODULES
        if module.relative_to(ROOT).parts[:2] == ("tests", "unit")
        for function in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.name != "until"
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr == "sleep"
    ]

    assert not sleeping


def test_a_test_s_name_is_a_sentence() -> None:
    short = [
        f"{name(module)}: {node.name}"
        for module in MODULES
        if module.relative_to(ROOT).parts[:2] == ("tests", "unit")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name.split("_")) < 4  # two words and a half are no sentence
    ]

    assert not short


def test_every_noqa_and_ignore_has_its_reason() -> None:
    marker = re.compile(r"#\s*(?:noqa|type:\s*ignore|fmt:\s*skip)(?P<rest>.*)$")
    bare = [
        f"{name(module)}:{number}"
        for module in MODULES
        for number, line in enumerate(module.read_text(encoding="utf-8").splitlines(), 1)
        if (found := marker.search(line)) and not re.search(r" [-#] *\w|\]\s+#", found["rest"])
    ]

    assert [place for place in bare if not place.startswith("tests/unit/test_house")] == []


def test_events_are_frozen_and_their_names_unique() -> None:
    kinds = typing.get_args(TaskEvent)

    assert set(TOKENS) == set(kinds)
    assert all(kind.__struct_config__.frozen for kind in kinds)
    assert len(set(TOKENS.values())) == len({envelope.event_type(kind) for kind in kinds}) == len(kinds)
    assert all(re.fullmatch(r"[a-z_]+", token) for token in TOKENS.values())


def test_every_struct_that_crosses_a_process_boundary_is_frozen() -> None:
    seen: set[type[msgspec.Struct]] = set()
    waiting = list(TOKENS)
    while waiting:
        kind = waiting.pop()
        if kind in seen:
            continue
        seen.add(kind)
        for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]  # a struct's has them
            waiting += _structs(field.type)

    assert len(seen) > len(TOKENS)
    assert all(kind.__struct_config__.frozen for kind in seen)


def _structs(info: msgspec.inspect.Type) -> list[typing.Any]:  # Any: a class, which inspect does not type
    match info:
        case msgspec.inspect.StructType(cls=cls):
            return [cls]
        case msgspec.inspect.UnionType(types=types):
            return [found for one in types for found in _structs(one)]
        case msgspec.inspect.VarTupleType(item_type=item):
            return _structs(item)
        case msgspec.inspect.Metadata(type=inner):
            return _structs(inner)
        case _:
            return []
