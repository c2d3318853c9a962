"""The golden files leave nothing out, and hold what envelopes hold."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import fields

from schemas import envelope, events
from schemas.events import TOKENS
from schemas.ids import EventId, TaskId

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.glob("events/*/*/*.json"))


def name(path: Path) -> str:
    return path.relative_to(FOLDER).with_suffix("").as_posix()


def token_of(path: Path) -> str:
    return path.parents[1].name


def read(path: Path) -> Any:  # Any: JSON
    return json.loads(path.read_bytes())


def shown(value: Any, said: Any) -> Iterator[tuple[type[Struct], str]]:  # Any: an event, and its JSON
    """Name every member that a body writes out, by the struct that it belongs to."""
    if isinstance(value, Struct):
        for field in fields(value):
            if field.encode_name in said:
                yield type(value), field.encode_name
                yield from shown(getattr(value, field.name), said[field.encode_name])
    elif isinstance(value, tuple):
        for one, its in zip(value, said, strict=True):
            yield from shown(one, its)


def strangely(value: Any) -> Any:  # Any: JSON
    """Add a member to every object, except where members are the user's own."""
    match value:
        case dict():
            inner = {name: one if name == "metadata" else strangely(one) for name, one in value.items()}
            return {**inner, "of_a_later_version": {"a": [1, None]}}
        case list():
            return [strangely(one) for one in value]
        case _:
            return value


@pytest.mark.parametrize("token", TOKENS.values())
def test_every_member_of_an_event_stands_in_some_file(token: str) -> None:
    bodies = [read(path)["body"] for path in FILES if token_of(path) == token]
    seen = {one for body in bodies for one in shown(events.decode(token, msgspec.json.encode(body)), body)}

    assert seen
    assert {(shape, field.encode_name) for shape, _ in seen for field in fields(shape)} == seen


@pytest.mark.parametrize("path", FILES, ids=name)
def test_members_that_nobody_knows_are_skipped_however_deep(path: Path) -> None:
    token, body = token_of(path), read(path)["body"]
    strange = msgspec.json.encode(strangely(body))

    assert events.decode(token, strange) == events.decode(token, msgspec.json.encode(body))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_headers_of_then_are_those_of_now(path: Path) -> None:
    golden = read(path)
    headers = golden["headers"]
    written = envelope.attributes(
        events.decode(token_of(path), msgspec.json.encode(golden["body"])),
        task_id=TaskId(headers["ce-subject"]),
        event_id=EventId(headers["ce-id"]),
        source=unquote(headers["ce-source"]),
        at=datetime.fromisoformat(headers["ce-time"]),
    )

    assert written == {name: headers[name] for name in written}
