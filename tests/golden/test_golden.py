"""Whatever was published can still be read, and still means the same.

To add a file, write it, and its line of ``sha256sum`` into SHA256SUMS, whose other lines are never touched.
"""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import envelope, events, views
from schemas.events import TOKENS, Recorded, Undecodable
from schemas.subjects import Address, parse_subject
from schemas.task import fold
from services.projector.projections import Fold
from tests.strategies import last_of_each

GOLDEN = Path(__file__).parent
EVENTS = sorted(GOLDEN.glob("events/*/*/*.json"))
HISTORIES = sorted(GOLDEN.glob("histories/*.json"))


def name(path: Path) -> str:
    return str(path.relative_to(GOLDEN).with_suffix(""))


def load(path: Path) -> dict[str, Any]:  # Any: JSON
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def keeps(old: object, new: object) -> bool:
    """Say whether everything that was there is there; members may have been added."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and keeps(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(keeps, old, new))
    return old == new


def read_history(path: Path) -> tuple[Address, list[Recorded], dict[str, Any]]:  # Any: JSON
    content = load(path)
    address, _ = parse_subject(f"{content['address']}.history")
    recorded = [
        Recorded(
            events.decode(one["token"], msgspec.json.encode(one["body"])),
            address.task_id,
            one["sequence"],
            datetime.fromisoformat(one["at"]),
        )
        for one in content["events"]
    ]
    return address, recorded, content["document"]


@pytest.mark.parametrize("path", EVENTS, ids=name)
def test_an_event_that_was_published_still_means_the_same(path: Path) -> None:
    golden = load(path)
    token, version = path.parts[-3:-1]

    _, spoken = parse_subject(golden["subject"])
    event = events.decode(spoken, msgspec.json.encode(golden["body"]))
    assert spoken == token
    assert keeps(golden["means"], json.loads(msgspec.json.encode(event)))
    assert golden["headers"]["ce-type"] == f"taskfold.task.{token}.{version}"
    assert envelope.event_id(golden["headers"]) == golden["headers"]["Nats-Msg-Id"]


@pytest.mark.parametrize("path", EVENTS, ids=name)
def test_an_event_with_a_member_of_tomorrow_is_read_as_today(path: Path) -> None:
    token, body = path.parts[-3], load(path)["body"]
    newer = {**body, "added_later": {"deep": [1, {"er": None}]}}

    assert events.decode(token, msgspec.json.encode(newer)) == events.decode(
        token, msgspec.json.encode(body)
    )


@pytest.mark.parametrize("path", EVENTS, ids=name)
def test_an_event_reads_back_from_what_is_written_today(path: Path) -> None:
    token, body = path.parts[-3], load(path)["body"]
    event = events.decode(token, msgspec.json.encode(body))

    assert events.decode(token, events.encode(event)) == event


@pytest.mark.parametrize("token", TOKENS.values())
def test_every_event_has_its_golden_files(token: str) -> None:
    assert list((GOLDEN / "events" / token / "v1").glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=name)
def test_a_history_still_folds_to_the_same_document(path: Path) -> None:
    address, recorded, document = read_history(path)

    for seen in (recorded, last_of_each(recorded)):
        assert keeps(document, json.loads(views.encoded(fold(address.task_id, seen), address)))


@pytest.mark.parametrize("path", HISTORIES, ids=name)
def test_the_read_model_shows_a_history_s_document(path: Path) -> None:
    address, recorded, document = read_history(path)
    projection = Fold(0, {})
    projection.remember(address.task_id, None)
    for one in recorded:
        assert not isinstance(one.event, Undecodable)
        projection.apply(one, address)

    ((*_, shown, _),) = projection.tasks()
    assert isinstance(shown, bytes)
    assert keeps(document, json.loads(shown))


def test_no_golden_file_was_changed_and_none_is_missing() -> None:
    lines = (GOLDEN / "SHA256SUMS").read_text(encoding="ascii").splitlines()
    found = {
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(GOLDEN)}"
        for path in (*EVENTS, *HISTORIES)
    }

    assert found == set(lines)
