"""The pages that list what the code knows, held to the code."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from schemas import generate, workflow
from schemas.errors import Code
from schemas.fleet import Condition
from schemas.problems import HTTP_STATUS
from schemas.registry import Protocol
from services.api.main import Api
from services.cli import settings_page
from services.settings import Settings, load
from tests import documents

ADDRESS = re.compile(r"localhost:8080(/[^\s\"'?|)]*)")
METHOD = re.compile(r"-X (\w+)")
GIVEN = {
    "nats_url": "nats://elsewhere",
    "image_gen_urls": "http://gpu:1",
    "whisper_urls": "http://gpu:2",
    "tenant_queue_limit": 5,
    "tenant_running_limit": 2,
    "balancing_image": "weighted",
    "picture_days": 7,
    "transcript_days": 7,
    "upload_days": 7,
    "balancing_speech": "round_robin",
}
BODY = re.compile(r"(?<!\S)(-d|-F|--data\S*) ")


def page(path: str) -> str:
    return (generate.ROOT / path).read_text(encoding="utf-8")


def test_the_api_page_lists_every_code_once_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| \S", page("docs/api.md"), re.MULTILINE)

    assert len(rows) == len(Code)
    assert {code: int(status) for status, code in rows} == HTTP_STATUS


def test_the_lifecycle_page_shows_the_table_of_transitions() -> None:
    text = page(generate.LIFECYCLE)
    blocks = dict(re.findall(r"<!-- generated: (\w+) -->\n(.*?)<!-- end -->", text, re.DOTALL))

    assert {name: block.strip() for name, block in blocks.items()} == {
        "diagram": generate.diagram().strip(),
        "table": generate.table().strip(),
    }


def curls(path: str) -> Iterator[tuple[str, str]]:
    """Give method and path of every call of curl in a page's commands."""
    for block in documents.commands(generate.ROOT / path):
        for call in block.text.replace("\\\n", " ").split("curl ")[1:]:
            line = call.partition("\n")[0]
            if (address := ADDRESS.search(line)) is not None:
                method = METHOD.search(line)
                yield method[1] if method else "POST" if BODY.search(line) else "GET", address[1]


async def routes(data_dir: Path) -> set[tuple[str, str]]:
    """Give method and path of every route that the api has."""
    return {
        (str(method), path)
        for handler in Api(Settings(data_dir=str(data_dir))).handlers()
        for path in handler.paths
        for method in handler.http_methods
        if method != "HEAD"
    }


async def test_the_api_page_calls_every_route_with_curl(tmp_path: Path) -> None:
    called = list(curls("docs/api.md"))
    missing = [
        (method, path)
        for method, path in await routes(tmp_path)
        if not any(
            method == used and re.fullmatch(re.sub(r"{[^}]*}", "[^/]+", path), address)
            for used, address in called
        )
    ]

    assert not missing


async def test_the_api_page_calls_no_route_that_is_not_there(tmp_path: Path) -> None:
    known = await routes(tmp_path)

    assert {("PUT", "/api/v1/tasks/{task_id:str}"), ("GET", "/api/v1/queues")} <= known
    for method, address in curls("docs/api.md"):
        assert any(
            method == allowed and re.fullmatch(re.sub(r"{[^}]*}", "[^/]+", path), address)
            for allowed, path in known
        ), (method, address)


def test_the_tables_of_settings_are_as_they_would_be_written_now() -> None:
    assert settings_page.main(["--check"]) is None


def test_a_stale_table_of_settings_is_found_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = settings_page.PAGE.read_text(encoding="utf-8")
    copy = tmp_path / "configuration.md"
    copy.write_text(fresh.replace("| `api_port` |", "| `api_prot` |"), encoding="utf-8")
    monkeypatch.setattr(settings_page, "PAGE", copy)

    assert "stale: docs/configuration.md" in str(settings_page.main(["--check"]))
    assert settings_page.main([]) is None
    assert copy.read_text(encoding="utf-8") == fresh
    assert str(settings_page.main(["--chek"])).startswith("usage")


def test_the_configuration_page_has_a_row_for_every_setting_with_names_that_work() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([A-Z0-9_]+)` \|", settings_page.tables(), re.MULTILINE)
    names = [field.name for field in msgspec.structs.fields(Settings)]

    assert [key for key, _ in rows] == names
    assert set(settings_page.GROUPS) <= set(names)
    for key, variable in rows:
        given: object = GIVEN.get(key, getattr(Settings(), key))
        loaded = getattr(load({variable: str(given)}), key)
        assert loaded == ({"1": given} if key.endswith("_urls") else given)


def test_the_file_that_the_configuration_page_shows_is_one(tmp_path: Path) -> None:
    (example,) = (b for b in documents.blocks(settings_page.PAGE) if b.language == "toml")
    file = tmp_path / "taskfold.toml"
    file.write_text(example.text, encoding="utf-8")

    assert [backend.name for backend in load({}, file).backends()] == ["image-1", "image-2", "speech-1"]


def test_the_page_on_backends_has_every_protocol_and_condition_and_urls_that_are_read() -> None:
    text = page("docs/backends.md")

    assert all(f"| `{protocol}` |" in text for protocol in Protocol)
    assert all(f"| {condition} |" in text for condition in Condition)
    found = re.findall(r"((?:IMAGE_GEN|WHISPER)_URL\w*)='?(http[^'\s]+)", text)
    assert len(found) > 10
    for variable, url in found:
        load({variable: url})


def test_the_workflow_that_the_page_on_backends_shows_is_one() -> None:
    blocks = documents.blocks(documents.ROOT / "docs" / "backends.md")
    (example,) = (block for block in blocks if block.language == "json")

    assert workflow.read(example.text.encode()).place("prompt") == ("6", "text")
