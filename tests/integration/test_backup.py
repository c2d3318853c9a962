"""Backups of a real server, restored into another: whole or not at all, by us and by the stock command."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from schemas import subjects
from schemas.errors import UnavailableError
from schemas.subjects import Address, Lane
from services import clock
from services.bus import snapshots
from services.bus.buckets import Bucket
from services.bus.connection import Bus, Msg
from services.bus.streams import ensure_lane
from services.bus.tasklog import Beginning, TaskLog
from services.init.main import prepare
from services.settings import Settings
from tests import documents
from tests.integration.test_bus_tasklog import STARTED, SUBMITTED
from tests.nats import NatsServer

LANE = Lane("image", "any", "normal", 3)
IN_SEQUENCE = "$O.ARTIFACTS.C.chunks"
Json = dict[str, Any]  # Any: JSON
needs_nats = pytest.mark.skipif(
    documents.nats_cli() is None,
    reason="the nats CLI is not installed: go install github.com/nats-io/natscli/nats@v0.5.0",
)


class Ran(Struct, frozen=True):
    code: int
    out: str
    err: str


async def typed(server: NatsServer, *command: str) -> Ran:
    """Run a command to its end against a server."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TASKFOLD_")}
    environment |= {"TASKFOLD_NATS_URL": server.url, "NATS_URL": server.url}
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


async def taskfold(server: NatsServer, *arguments: str) -> Ran:
    return await typed(server, sys.executable, "-m", "services", *arguments)


async def nats(server: NatsServer, *arguments: str) -> Ran:
    return await typed(server, documents.nats_cli() or "nats", *arguments)


@pytest.fixture
async def filled(bus: Bus) -> Bus:
    """Give a server with tasks, some out and one for later, bytes with a gap, an entry changed twice."""
    await prepare(bus, Settings(artifact_gib=1))
    await ensure_lane(bus, LANE)
    log = TaskLog(bus, "/test", clock.now, clock.new_event_id)
    for number in range(20):
        where = Address(LANE, clock.new_task_id())
        sequence = await log.append(where, SUBMITTED, expected=0, patience_s=2)
        if number % 2:
            await log.append(where, STARTED, expected=sequence, patience_s=2)
    later = replace(SUBMITTED.submission, not_before=clock.now() + timedelta(hours=1))
    await log.begin([Beginning(Address(LANE, clock.new_task_id()), later)], patience_s=2)
    for _ in range(40):
        await bus.publish(IN_SEQUENCE, os.urandom(500_000), {})
    await bus.api(f"STREAM.MSG.DELETE.OBJ_{subjects.ARTIFACTS}", {"seq": 7})
    bucket = Bucket(bus, subjects.CONTROL)
    await bucket.put("image", b"1")
    await bucket.put("image", b"2")
    await taken(bus, 3)
    return bus


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "other")
    server.start()
    yield server
    server.stop()


async def taken(bus: Bus, count: int) -> None:
    """Have tickets out that nobody acks."""
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await bus.subscribe(inbox := bus.new_inbox(), arrived.put_nowait)
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{subjects.TASKS}.{LANE.name}"
    await bus.client().publish(subject, str(count).encode(), reply=inbox)
    for _ in range(count):
        await arrived.get()
    await subscription.unsubscribe()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def contents(bus: Bus) -> Json:
    """Give all that is in the streams: their state, a digest of every message, their consumers."""
    found: Json = {}
    for name in subjects.SAVED:
        info = await bus.api(f"STREAM.INFO.{name}", {"subjects_filter": ">"})
        consumers = await bus.api(f"CONSUMER.LIST.{name}")
        empty = not info["state"]["last_seq"]  # whose first sequence is 0 until a restore, then 1
        unlike = {"consumer_count", "first_seq"} if empty else {"consumer_count"}
        state = {key: value for key, value in info["state"].items() if key not in unlike}
        messages = [
            answer.get("message")
            for sequence in range(1, info["state"]["last_seq"] + 1)
            for answer in [await _message(bus, name, sequence)]
        ]
        found[name] = (
            info["config"],
            state,
            messages,
            [_standing(one) for one in consumers["consumers"] or []],
        )
    return found


async def _message(bus: Bus, stream: str, sequence: int) -> Json:
    answer = await bus.request(f"$JS.API.STREAM.MSG.GET.{stream}", msgspec.json.encode({"seq": sequence}))
    return msgspec.json.decode(answer.data, type=Json)


def _standing(consumer: Json) -> Json:
    kept = ("name", "config", "num_pending", "num_ack_pending", "delivered", "ack_floor")
    return {
        name: {key: value for key, value in consumer[name].items() if key != "last_active"}
        if isinstance(consumer[name], dict)
        else consumer[name]
        for name in kept
    }


async def contents_of(server: NatsServer) -> Json:
    bus = Bus(server.url, "test")
    await bus.connect()
    try:
        return await contents(bus)
    finally:
        await bus.close()


async def names(server: NatsServer) -> set[str]:
    bus = Bus(server.url, "test")
    await bus.connect()
    try:
        return await snapshots.stream_names(bus)
    finally:
        await bus.close()


async def saved(server: NatsServer, folder: Path) -> Path:
    done = await taskfold(server, "backup", str(folder))
    assert done.code == 0, done.err
    return folder


async def test_what_is_restored_is_the_same_message_for_message_and_ticket_for_ticket(
    filled: Bus, nats_server: NatsServer, other: NatsServer, tmp_path: Path
) -> None:
    before = await contents(filled)
    done = await taskfold(nats_server, "backup", str(tmp_path / "backup"), "--json")
    assert done.code == 0, done.err
    told = msgspec.json.decode(done.out)
    sizes = {one["name"]: (one["messages"], one["bytes"]) for one in told["streams"]}
    assert sizes == {name: (state["messages"], state["bytes"]) for name, (_, state, *_) in before.items()}
    assert sizes["OBJ_ARTIFACTS"][0] == 39

    restored = await taskfold(other, "restore", str(tmp_path / "backup"), "--json")

    assert restored.code == 0, restored.err
    same = sorted(msgspec.json.decode(restored.out)["streams"], key=lambda one: one["name"])
    assert same == sorted(told["streams"], key=lambda one: one["name"])
    assert await contents_of(other) == before
    (lane,) = before["TASKS"][3]
    assert (lane["num_ack_pending"], lane["num_pending"]) == (3, 17)


@needs_nats
async def test_the_stock_command_restores_what_we_saved(
    filled: Bus, nats_server: NatsServer, other: NatsServer, tmp_path: Path
) -> None:
    before = await contents(filled)
    folder = await saved(nats_server, tmp_path / "backup")
    for name in subjects.SAVED:
        valid = await nats(nats_server, "backup", "validate", str(folder / name), "--no-progress")
        assert valid.code == 0, valid

    done = await nats(other, "backup", "restore", "account", str(folder))

    assert done.code == 0, done
    assert await contents_of(other) == before


@needs_nats
async def test_we_restore_what_the_stock_command_saved_and_leave_alone_what_is_not_ours(
    filled: Bus, nats_server: NatsServer, other: NatsServer, tmp_path: Path
) -> None:
    await filled.api(
        "STREAM.CREATE.FOREIGN", {"name": "FOREIGN", "subjects": ["foreign"], "storage": "file"}
    )
    before = await contents(filled)
    folder = tmp_path / "backup"
    made = await nats(nats_server, "backup", "account", str(folder), "--force")
    assert made.code == 0, made

    done = await taskfold(other, "restore", str(folder))

    assert done.code == 0, done.err
    assert "left alone, since they are not Taskfold's: FOREIGN" in done.err
    assert await contents_of(other) == before
    assert await names(other) == set(subjects.SAVED)


@pytest.mark.usefixtures("filled")
async def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_used(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    folder.mkdir()
    await saved(nats_server, folder)
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))

    again = await taskfold(nats_server, "backup", str(folder))

    assert (again.code, again.err) == (
        2,
        f"taskfold: {folder} is there already; name a folder that is empty or new\n",
    )
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before
    assert folder.stat().st_mode & 0o077 == 0, "it holds prompts and keys"


async def test_a_backup_that_breaks_off_leaves_nothing(
    nats_server: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    await prepare(bus, Settings(artifact_gib=1))
    await snapshots.delete_stream(bus, f"KV_{subjects.CONTROL}")  # the last one

    done = await taskfold(nats_server, "backup", str(tmp_path / "made" / ".." / "backup"))

    assert done.code == 2, "its parent is not there"
    done = await taskfold(nats_server, "backup", str(tmp_path / "backup"))
    assert (done.code, done.err.splitlines()[-1]) == (
        3,
        "taskfold: the server lacks a stream of Taskfold's; run `taskfold init` first",
    )
    assert names_in(tmp_path) == ["nats"]


async def test_a_snapshot_whose_server_dies_in_the_middle_says_so(
    filled: Bus, nats_server: NatsServer
) -> None:
    async with snapshots.snapshot(filled, f"OBJ_{subjects.ARTIFACTS}") as snapshot:
        await anext(snapshot.chunks)
        nats_server.kill()
        with pytest.raises(UnavailableError):
            async for _ in snapshot.chunks:
                pass


async def test_a_server_that_is_away_is_named(nats_server: NatsServer, tmp_path: Path) -> None:
    nats_server.stop()

    done = await taskfold(nats_server, "backup", str(tmp_path / "backup"))

    assert done.code == 4
    assert nats_server.url in done.err
    assert not (tmp_path / "backup").exists()


@pytest.mark.usefixtures("filled")
async def test_a_server_that_has_one_of_the_streams_is_left_as_it_is(
    nats_server: NatsServer, other: NatsServer, tmp_path: Path
) -> None:
    folder = await saved(nats_server, tmp_path / "backup")
    bus = Bus(other.url, "test")
    await bus.connect()
    await bus.api("STREAM.CREATE.KV_FLEET", {"name": "KV_FLEET", "subjects": ["$KV.FLEET.>"]})
    await bus.close()

    done = await taskfold(other, "restore", str(folder))

    assert done.code == 3
    assert "the server has KV_FLEET already" in done.err
    assert await names(other) == {"KV_FLEET"}


def without_a_stream(folder: Path) -> None:
    shutil.rmtree(folder / "KV_BACKENDS")


def without_an_archive(folder: Path) -> None:
    (folder / "TASKS" / "stream.arc.s2").unlink()


def cut_short(folder: Path) -> None:
    archive = folder / "TASKS" / "stream.arc.s2"
    os.truncate(archive, archive.stat().st_size - 10)


def of_another_stream(folder: Path) -> None:
    for name in ("KV_FLEET", "KV_LEASES"):
        (folder / name / "SHA256SUMS").unlink()
    shutil.copy(folder / "KV_FLEET" / "backup.json", folder / "KV_LEASES" / "backup.json")


def described_by_nonsense(folder: Path) -> None:
    (folder / "TASKS" / "SHA256SUMS").unlink()
    (folder / "TASKS" / "backup.json").write_text('{"config": {}, "state": 1}')


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_a_stream, "is no whole backup: it lacks KV_BACKENDS"),
        (without_an_archive, "cannot read"),
        (cut_short, "it has another checksum"),
        (of_another_stream, "is a backup of KV_FLEET"),
        (described_by_nonsense, "describes no stream"),
    ],
)
@pytest.mark.usefixtures("filled")
async def test_a_spoilt_backup_is_refused_before_anything_is_done(
    nats_server: NatsServer,
    other: NatsServer,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    said: str,
) -> None:
    folder = await saved(nats_server, tmp_path / "backup")
    spoil(folder)

    done = await taskfold(other, "restore", str(folder))

    assert done.code == 2, done
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert await names(other) == set()


def with_fewer_bytes(folder: Path) -> None:
    cut_short(folder)
    (folder / "TASKS" / "SHA256SUMS").unlink()


def with_fewer_messages(folder: Path) -> None:
    """Describe more than the archive has."""
    (folder / "TASKS" / "SHA256SUMS").unlink()
    file = folder / "TASKS" / "backup.json"
    described = msgspec.json.decode(file.read_bytes())
    described["state"]["messages"] += 1
    file.write_bytes(msgspec.json.encode(described))


@pytest.mark.parametrize("spoil", [with_fewer_bytes, with_fewer_messages])
@pytest.mark.usefixtures("filled")
async def test_a_restore_that_fails_leaves_no_stream(
    nats_server: NatsServer, other: NatsServer, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    folder = await saved(nats_server, tmp_path / "backup")
    spoil(folder)

    done = await taskfold(other, "restore", str(folder))

    assert done.code == 3, done
    assert "restoring TASKS" in done.err, "all others were there by then"
    assert await names(other) == set()


async def test_what_is_stored_during_a_backup_is_in_it_whole_or_not_at_all(
    filled: Bus, nats_server: NatsServer, other: NatsServer, tmp_path: Path
) -> None:
    log = TaskLog(filled, "/test", clock.now, clock.new_event_id)
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            where = Address(LANE, clock.new_task_id())
            await log.append(where, SUBMITTED, expected=0, patience_s=2)
            written += 1

    writer = asyncio.create_task(write())
    folder = await saved(nats_server, tmp_path / "backup")
    writer.cancel()
    await asyncio.wait((writer,))

    done = await taskfold(other, "restore", str(folder))

    assert done.code == 0, done.err
    assert written > 0
    all_of_it, copied = (await contents(filled))["TASKS"][2], (await contents_of(other))["TASKS"][2]
    assert copied == all_of_it[: len(copied)]
