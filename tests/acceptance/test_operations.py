"""The recipes of docs/operations.md: they end well, and what they print is so.

The page is run once, from its first command to its last, against one instance; each test then looks at what
the commands under one heading printed, and asks the api whether it is true.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec import Struct

from schemas.problems import HTTP_STATUS
from tests import documents
from tests.acceptance.test_up_life import Instance
from tests.nats import free_port

PAGE = documents.ROOT / "docs" / "operations.md"
EVENT = re.compile(r"seq: (\d+) / .*subject: task\.image\.any\.normal\.\d+\.([0-9a-f-]{36})\.([a-z_]+) /")
LANE = re.compile(r"^(image-any-normal-\d)\t(\d+)\t\d+$", re.MULTILINE)
Json = Any  # what json.load gives

MISSING = [
    f"{name} is not installed: {how}"
    for name, how in {
        "nats": "go install github.com/nats-io/natscli/nats@v0.5.0",
        "jq": "apt-get install jq",
        "curl": "apt-get install curl",
    }.items()
    if not shutil.which(name, path=documents.search_path())
]


class Told(Struct):
    """What the page printed, by heading, and the instance that it was about."""

    url: str
    folder: Path
    printed: dict[str, str]

    def get(self, path: str) -> Json:
        request = urllib.request.Request(
            f"{self.url}/api/v1/{path}", headers={"accept": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tasks(self, status: str) -> list[str]:
        """Give the ids of the tasks in a status, newest first."""
        return [task["task_id"] for task in self.get(f"tasks?limit=100&status={status}")["tasks"]]

    def history(self, task_id: str) -> list[tuple[int, str, str]]:
        """Give what EVENT finds in lines, as the api tells it."""
        return [
            (event["sequence"], task_id, event["type"].removeprefix("task."))
            for event in self.get(f"tasks/{task_id}/events")["events"]
        ]

    @property
    def picture(self) -> str:
        """The task that the page looks at."""
        return self.printed["With the nats command"].split()[-1]


def events(text: str) -> list[tuple[int, str, str]]:
    return [(int(sequence), task_id, event) for sequence, task_id, event in EVENT.findall(text)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    if MISSING:
        pytest.skip("; ".join(MISSING))
    base = tmp_path_factory.mktemp("operations")
    folder = base / "reader"
    folder.mkdir()
    nats = f"127.0.0.1:{(port := free_port())}"
    instance = Instance(base, simulated_step_ms=5, nats_port=port).start()
    try:
        instance.ready()
        printed = documents.run(
            PAGE,
            folder,
            {"localhost:8080": urlsplit(instance.url).netloc, "127.0.0.1:4222": nats},
            {
                "TASKFOLD_URL": instance.url,
                "TASKFOLD_NATS_URL": f"nats://{nats}",
                "XDG_CONFIG_HOME": str(base / "config"),
                "ROOT": str(documents.ROOT),
                "RESTORE_PORT": str(free_port()),
                "RESTORE_API_PORT": str(free_port()),
            },
        )
        yield Told(instance.url, folder, printed)
    finally:
        instance.kill()


def test_every_heading_with_commands_is_looked_at_here(told: Told) -> None:
    looked_at = set(re.findall(r'printed\["([^"]+)"\]', Path(__file__).read_text(encoding="utf-8")))
    assert set(told.printed) == looked_at


def test_it_is_ready(told: Told) -> None:
    assert json.loads(told.printed["Running"]) == {"status": "ready", "reasons": []}


def test_there_is_one_that_fails_and_one_for_later(told: Told) -> None:
    said = told.printed["With the nats command"].splitlines()
    assert said[-4:-1] == ["FAILED", "the attempt took longer than its run timeout", "SCHEDULED"]
    assert told.picture in told.tasks("DONE")


def test_all_events_are_followed_as_they_come_to_the_end_of_a_task(told: Told) -> None:
    followed = events(told.printed["Follow all events"])
    first = followed[0][0]
    assert [sequence for sequence, _, _ in followed] == list(range(first, first + len(followed)))
    assert all(event in told.history(event[1]) for event in followed)
    assert "done" in {event for _, _, event in followed}


def test_a_tasks_history_is_its_events_in_order(told: Told) -> None:
    text = told.printed["One task's history"]
    assert events(text) == told.history(told.picture)
    assert [event for _, _, event in events(text)][:2] == ["submitted", "started"]
    assert events(text)[-1][2] == "done"
    assert '"prompt":"a red fox in the snow"' in text


def test_only_failures_with_why(told: Told) -> None:
    why, subject = filter(None, told.printed["Only failures"].splitlines())
    assert told.tasks("FAILED") == [subject.split(".")[5]]
    assert json.loads(why)["error"]["code"] == "timeout"


def test_a_replay_from_a_time_has_every_event_since(told: Told) -> None:
    replayed = events(told.printed["Replay from a time"])
    assert [sequence for sequence, _, _ in replayed[:4]] == [1, 2, 3, 4]
    assert [e for e in replayed if e[1] == told.picture] == told.history(told.picture)
    assert {event for _, _, event in replayed} >= {"submitted", "started", "done", "failed", "scheduled"}


def test_a_replay_from_a_sequence_begins_there(told: Told) -> None:
    replayed = events(told.printed["Replay from a sequence"])
    assert replayed[0][0] == 3
    assert replayed == [e for e in events(told.printed["Replay from a time"]) if e[0] >= 3]
    assert '"prompt": "a red fox in the snow"' in told.printed["Replay from a sequence"]


def test_the_depth_of_idle_queues_is_none_and_the_read_model_is_not_behind(told: Told) -> None:
    text = told.printed["Queue depth and lag"]
    assert {waiting for _, waiting in LANE.findall(text)} == {"0"}
    assert re.findall(r"^projector-\S+\t(\d+)", text, re.MULTILINE) == ["0"]
    assert "Unprocessed" in text


def test_what_is_scheduled_is_the_task_and_its_time(told: Told) -> None:
    subject, at = told.printed["What is scheduled"].split()
    (task_id,) = told.tasks("SCHEDULED")
    assert subject == f"sched.{task_id}"
    assert at == told.get(f"tasks/{task_id}")["not_before"]


def test_the_registry_has_every_gpu_and_a_lease_says_what_runs(told: Told) -> None:
    text = told.printed["Who runs what"]
    (busy,) = told.tasks("CANCELLED")
    assert set(re.findall(r'"name":"([a-z]+-\d)"', text)) == {"image-1", "image-2", "image-3", "speech-1"}
    leases = dict(re.findall(r'│ (image-\d)\.0 .*"task_id":"([0-9a-f-]{36})"', text))
    assert leases[told.get(f"tasks/{busy}")["attempts"][0]["backend"]] == busy
    assert re.search(r'│ sweeper .*"holder":"api-', text)
    assert text.endswith("CANCELLED\n")


def test_the_picture_is_the_one_of_the_document(told: Told) -> None:
    text = told.printed["Fetch a picture"]
    assert f"{told.picture}-1-0" in text
    assert text.endswith("picture.png: OK\n")
    (artifact,) = told.get(f"tasks/{told.picture}")["artifacts"]
    bytes_ = (told.folder / "picture.png").read_bytes()
    assert hashlib.sha256(bytes_).hexdigest() == artifact["sha256"]
    with urllib.request.urlopen(told.url + artifact["url"]) as answer:
        assert answer.read() == bytes_


def test_the_counts_are_those_of_the_api(told: Told) -> None:
    counts = {
        event: int(n)
        for n, event in (line.split() for line in told.printed["Count tasks by status"].splitlines())
    }
    held = 1  # came after the count
    assert counts == {
        "done": len(told.tasks("DONE")) - held,
        **{status: len(told.tasks(status.upper())) for status in ("failed", "scheduled", "cancelled")},
    }


def test_a_stopped_queue_starts_nothing_until_it_is_started_again(told: Told) -> None:
    text = told.printed["Stop and start a queue"]
    stopped, started = text.split("\nQUEUED\n")
    lanes = re.findall(r"Paused TASKS > (\S+) until", stopped)
    assert {lane.rsplit("-", 1)[0] for lane in lanes} == {"image-any-normal"}
    assert [waiting for _, waiting in LANE.findall(started) if waiting != "0"] == ["1"]
    assert sorted(re.findall(r"TASKS > (\S+) was resumed", started)) == sorted(lanes)
    assert text.endswith("\nDONE\n")


def test_the_restored_log_artifact_and_tasks_are_the_same(told: Told) -> None:
    text = told.printed["Back up and restore"]
    assert "OK: " in text
    original, restored = (
        json.loads(line) for line in re.findall(r'^\{"messages".*\}$', text, re.MULTILINE)
    )
    assert original == restored
    log, copy = re.findall(r"^([0-9a-f]{64})  -$", text, re.MULTILINE)
    assert log == copy != hashlib.sha256(b"").hexdigest()
    last_ended = told.tasks("DONE")[0]
    assert original["last_seq"] == told.history(last_ended)[-1][0]
    assert (told.folder / "restored.png").read_bytes() == (told.folder / "picture.png").read_bytes()
    shown = re.findall(r"^([0-9a-f-]{36})\t([A-Z]+)$", text, re.MULTILINE)
    assert shown == [(task["task_id"], task["status"]) for task in told.get("tasks?limit=100")["tasks"]]


def test_every_alarm_of_the_logs_is_explained() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for module in (documents.ROOT / "services").rglob("*.py"):
        for call in re.findall(r"log\.(?:warning|error|exception)\(([^,)]+)", module.read_text("utf-8")):
            for line in re.findall(r'"([a-z_.]+)"', call):
                assert f"`{line}`" in page, f"{line} of {module.name}"


def test_every_refusal_with_503_is_explained() -> None:
    page = PAGE.read_text(encoding="utf-8")
    missing = [c for c, status in HTTP_STATUS.items() if status == 503 and f"| `{c}` | " not in page]
    assert missing == []


def make(folder: Path, path: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [shutil.which("make") or "make", "-C", str(documents.ROOT), "nats-context"],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("TASKFOLD_")},
            "XDG_CONFIG_HOME": str(folder),
            "PATH": path,
            "TASKFOLD_NATS_PORT": "4555",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(bool(MISSING), reason="; ".join(MISSING))
def test_make_writes_the_context(tmp_path: Path) -> None:
    assert make(tmp_path, documents.search_path()).returncode == 0
    context = json.loads((tmp_path / "nats" / "context" / "taskfold.json").read_text())
    assert context["url"] == "nats://127.0.0.1:4555"


def test_make_says_how_to_get_the_nats_command(tmp_path: Path) -> None:
    done = make(tmp_path, str(tmp_path))
    assert done.returncode != 0
    assert "go install github.com/nats-io/natscli/nats@v0.5.0" in done.stderr
