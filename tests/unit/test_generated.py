"""What is derived from the contracts is fresh, sound, and true of what is really written."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no stubs
import msgspec
import pytest
from hypothesis import given, settings
from jsonschema.validators import Draft202012Validator  # type: ignore[import-untyped]  # as above

from schemas import asyncapi, envelope, events, generate, subjects, views
from schemas.asyncapi import OPERATIONS
from schemas.events import TOKENS, Progress, Recorded, TaskEvent
from schemas.generate import GENERATED, ROOT
from schemas.ids import EventId
from schemas.standing import Why, standing
from schemas.subjects import Address, Lane
from schemas.task import TRANSITIONS, Status, fold
from tests import strategies
from tests.builders import ADDRESS, T0, TASK

FOLDER = ROOT / GENERATED
SCHEMAS = sorted(path for path in FOLDER.rglob("*.json") if path.name != "asyncapi.json")
GOLDEN = sorted((ROOT / "tests" / "golden" / "events").glob("*/*/*.json"))

NAMED = {"type": "object", "propertyNames": {"pattern": r"^[A-Za-z0-9._-]+$"}}
REFERENCE = {"type": "object", "required": ["$ref"], "properties": {"$ref": {"type": "string"}}}
SHAPE = {
    "type": "object",
    "required": ["asyncapi", "info", "channels", "operations", "components"],
    "additionalProperties": False,
    "properties": {
        "asyncapi": {"const": "3.1.0"},
        "id": {"type": "string", "format": "uri"},
        "defaultContentType": {"const": "application/json"},
        "info": {"type": "object", "required": ["title", "version"]},
        "servers": {**NAMED, "additionalProperties": {"type": "object", "required": ["host", "protocol"]}},
        "channels": {
            **NAMED,
            "additionalProperties": {
                "type": "object",
                "required": ["address", "messages"],
                "additionalProperties": False,
                "properties": {
                    "address": {"type": "string", "minLength": 1},
                    "description": {"type": "string"},
                    "messages": {**NAMED, "minProperties": 1, "additionalProperties": REFERENCE},
                    "parameters": {**NAMED, "additionalProperties": REFERENCE},
                },
            },
        },
        "operations": {
            **NAMED,
            "additionalProperties": {
                "type": "object",
                "required": ["action", "channel", "messages"],
                "additionalProperties": False,
                "properties": {
                    "action": {"enum": ["send", "receive"]},
                    "channel": REFERENCE,
                    "messages": {"type": "array", "minItems": 1, "items": REFERENCE},
                    "tags": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                },
            },
        },
        "components": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "messages": {
                    **NAMED,
                    "additionalProperties": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"},
                            "summary": {"type": "string"},
                            "contentType": {"type": "string"},
                            "headers": {"type": "object"},
                            "payload": {
                                "type": "object",
                                "required": ["schemaFormat", "schema"],
                                "additionalProperties": False,
                                "properties": {"schemaFormat": {"type": "string"}, "schema": REFERENCE},
                            },
                        },
                    },
                },
                "parameters": {**NAMED, "additionalProperties": {"type": "object"}},
                "schemas": {**NAMED, "additionalProperties": {"type": "object"}},
            },
        },
    },
}


def load(path: Path) -> dict[str, Any]:  # Any: JSON
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def validator(path: str) -> Draft202012Validator:
    return Draft202012Validator(load(FOLDER / path), format_checker=Draft202012Validator.FORMAT_CHECKER)


EVENT_VALIDATORS = {token: validator(f"events/{token}.v1.json") for token in TOKENS.values()}


def document() -> dict[str, Any]:  # Any: JSON
    return load(FOLDER / "asyncapi.json")


def references(node: object) -> list[str]:
    match node:
        case {"$ref": str(found)}:
            return [found]
        case dict():
            return [found for value in node.values() for found in references(value)]
        case list():
            return [found for value in node for found in references(value)]
        case _:
            return []


def resolved(base: Path, reference: str) -> object:
    """Follow a reference within a file, or to a file beside it."""
    file, _, pointer = reference.partition("#")
    node: Any = load(base.parent / file if file else base)
    for step in pointer.split("/")[1:]:
        node = node[step.replace("~1", "/").replace("~0", "~")]
    return node


def test_everything_generated_is_as_it_would_be_generated_now() -> None:
    assert generate.stale() == []


def test_generating_twice_gives_the_same() -> None:
    assert generate.files() == generate.files()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(FOLDER, tmp_path / GENERATED)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / generate.LIFECYCLE, tmp_path / "docs")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    return tmp_path


def test_a_check_names_what_is_stale_and_writing_mends_it(elsewhere: Path) -> None:
    (elsewhere / GENERATED / "document.json").unlink()
    (elsewhere / GENERATED / "events" / "done.v1.json").write_text("{}\n")
    (elsewhere / GENERATED / "events" / "forgotten.v1.json").write_text("{}\n")
    page = elsewhere / generate.LIFECYCLE
    before = page.read_text(encoding="utf-8")
    page.write_text(before.replace("stateDiagram-v2", "flowchart"), encoding="utf-8")

    found = generate.main(["--check"])
    assert found is not None
    for name in ("document.json", "done.v1.json", "forgotten.v1.json", "lifecycle.md"):
        assert name in found
    assert generate.main([]) is None
    assert generate.main(["--check"]) is None
    assert page.read_text(encoding="utf-8") == before


def test_what_it_was_not_asked_is_not_done(elsewhere: Path) -> None:
    (elsewhere / GENERATED / "document.json").unlink()

    found = generate.main(["--chek"])
    assert found is not None
    assert found.startswith("usage")
    assert not (elsewhere / GENERATED / "document.json").exists()


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_a_schema_is_one_and_names_itself(path: Path) -> None:
    schema = load(path)

    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == generate.DIALECT
    assert schema["$id"] == f"urn:{schema['title'].replace('.', ':')}"
    for reference in references(schema):
        assert isinstance(resolved(path, reference), dict)


def test_no_two_schemas_share_a_name() -> None:
    assert len({load(path)["$id"] for path in SCHEMAS}) == len(SCHEMAS) == len(TOKENS) + 2


@given(strategies.events())
@settings(max_examples=50)
def test_every_event_is_as_its_schema_says(event: TaskEvent) -> None:
    EVENT_VALIDATORS[TOKENS[type(event)]].validate(json.loads(events.encode(event)))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_every_event_that_was_ever_published_is_as_today_s_schema_says(path: Path) -> None:
    EVENT_VALIDATORS[path.parts[-3]].validate(load(path)["body"])


@pytest.mark.parametrize(
    ("token", "body"),
    [
        ("started", {"attempt": 1, "backend": "b"}),
        ("started", {"attempt": "1", "backend": "b", "dispatcher": "d"}),
        ("submitted", {"submission": {"kind": "image", "request": {"prompt": ""}}}),
        ("submitted", {"submission": {"kind": "speech", "request": {"prompt": "a"}}}),
        ("expired", {"deadline": "never", "due_at": "2026-11-24T09:00:00Z"}),
    ],
)
def test_a_schema_refuses_what_is_none_of_its_events(token: str, body: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        EVENT_VALIDATORS[token].validate(body)


@given(strategies.of(Progress))
@settings(max_examples=20)
def test_progress_is_as_its_schema_says(progress: Progress) -> None:
    validator("progress.v1.json").validate(json.loads(msgspec.json.encode(progress)))


@given(strategies.histories())
@settings(max_examples=30)
def test_every_document_is_as_its_schema_says(whole: list[Recorded]) -> None:
    stored = views.encoded(fold(TASK, whole), ADDRESS)
    shown = views.progress(TASK, Progress(attempt=1, fraction=0.5))

    stands = [standing(None, None, Why.PAUSED), standing(1, T0, Why.WAITING_FOR_SLOT)]

    for document_shown in (
        views.spliced(stored, None),
        views.spliced(stored, shown),
        *(views.spliced(stored, None, queue) for queue in stands),
    ):
        validator("document.json").validate(json.loads(document_shown))


def test_the_asyncapi_document_has_the_shape_of_one() -> None:
    jsonschema.validate(document(), SHAPE, cls=Draft202012Validator)


def test_every_reference_leads_somewhere() -> None:
    found = references(document())

    assert len(found) > 100
    for reference in found:
        assert isinstance(resolved(FOLDER / "asyncapi.json", reference), dict)


def test_every_parameter_of_an_address_is_described_and_no_other() -> None:
    channels = document()["channels"]

    for channel in channels.values():
        named = re.findall(r"{(\w+)}", channel["address"])
        assert sorted(named) == sorted(channel.get("parameters", {}))
    assert {name for channel in channels.values() for name in channel.get("parameters", {})} == set(
        asyncapi.PARAMETERS
    )


def test_every_operation_uses_a_message_of_its_channel() -> None:
    content = document()

    for operation in content["operations"].values():
        channel = operation["channel"]["$ref"]
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{channel}/messages/")


def test_every_channel_is_used_and_every_event_is_read_by_the_projector() -> None:
    used = {name for names in OPERATIONS.values() for name in names}

    assert set(document()["channels"]) == used
    assert set(TOKENS.values()) <= set(OPERATIONS["projector", "receive"])


@pytest.mark.parametrize("event", TOKENS)
def test_a_channel_s_address_is_the_subject_that_is_written_to(event: type[TaskEvent]) -> None:
    token = TOKENS[event]
    values = {"kind": "image", "model": "any", "priority": "low", "lane": 4, "id": TASK}
    address = document()["channels"][token]["address"].format(**values)

    assert address == Address(Lane("image", "any", "low", 4), TASK).subject(event)


def test_the_other_channels_are_where_they_are_said_to_be() -> None:
    channels = document()["channels"]

    assert channels["progress"]["address"].format(id=TASK) == subjects.progress_subject(TASK)
    assert channels["schedule"]["address"].format(id=TASK) == subjects.schedule_subject(TASK)
    assert channels["applied"]["address"] == subjects.APPLIED
    assert channels["suspect"]["address"] == subjects.SUSPECT
    for wanted in (subjects.WAKE_SUBMITTED, subjects.WAKE_CANCELLED, subjects.WAKE_EXPIRED):
        name = f"wake_{wanted.rpartition('.')[2]}"
        assert re.sub(r"{\w+}", "*", channels[name]["address"]) == wanted


@pytest.mark.parametrize("event", TOKENS)
def test_the_headers_that_are_written_are_those_described(event: type[TaskEvent]) -> None:
    content = document()
    described = content["components"]["messages"][TOKENS[event]]["headers"]
    example = load(ROOT / "tests" / "golden" / "events" / TOKENS[event] / "v1" / _any_golden(TOKENS[event]))
    built = envelope.attributes(
        events.decode(TOKENS[event], msgspec.json.encode(example["body"])),
        task_id=TASK,
        event_id=EventId("e-1"),
        source="api-1",
        at=T0,
        traceparent="00-ab-cd-01",
    )

    schema = {**described, "components": content["components"]}
    for headers in (built, {**built, **envelope.guarded(17, ADDRESS.guard)}, example["headers"]):
        jsonschema.validate(headers, schema, cls=Draft202012Validator)
        assert set(headers) <= set(content["components"]["schemas"]["CloudEvent"]["properties"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            {**built, "ce-type": "taskfold.task.other.v1"}, schema, cls=Draft202012Validator
        )


def _any_golden(token: str) -> str:
    return next(path.name for path in GOLDEN if path.parts[-3] == token)


def test_the_diagram_draws_every_transition() -> None:
    drawn = set()
    for before, after, names in re.findall(
        r"^    (\S+) --> (\w+): (.+)$", generate.diagram(), re.MULTILINE
    ):
        start = Status.ABSENT if before == "[*]" else Status(before)
        drawn |= {(start, name, Status(after)) for name in names.split(", ")}

    assert drawn == {(before, TOKENS[event], after) for (before, event), after in TRANSITIONS.items()}


def test_the_table_has_a_row_for_every_event_and_a_column_for_every_state() -> None:
    head, _, *rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in generate.table().splitlines()
    ]

    assert head[1:] == list(Status)
    for token, *cells in rows:
        (event,) = (event for event, name in TOKENS.items() if name == token)
        assert cells == [TRANSITIONS.get((status, event), "·") for status in Status]
    assert len(rows) == len(TOKENS)


def test_the_page_on_the_lifecycle_names_what_it_promises() -> None:
    page = (ROOT / generate.LIFECYCLE).read_text(encoding="utf-8")

    assert page.count("<!-- generated: ") == page.count("<!-- end -->") == 2
    for word in ("Ticket", "Guard", "Exactly one final event", "Delayed start", "Retries", "Deadlines"):
        assert f"## {word}" in page
