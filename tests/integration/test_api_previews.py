"""Showing how the picture of a running task looks so far."""

import asyncio
from pathlib import Path

import pytest

from schemas import previews
from schemas.events import TaskStarted
from schemas.ids import BackendId, TaskId
from schemas.subjects import PROGRESS, preview_subject, streams
from services import clock
from services.bus.connection import Bus
from services.bus.previews import Previews
from services.bus.streams import ensure_stream
from services.init.main import prepare
from services.settings import Settings
from tests.api import Reply, Rig, eventually, running, settings_for
from tests.builders import attempt_failed
from tests.nats import NatsServer

JPEG = b"\xff\xd8\xff first"
PNG = b"\x89PNG\r\n\x1a\n second"
NONE = (404, "no_preview", None)


async def preview(rig: Rig, task_id: TaskId, **headers: str) -> Reply:
    return await rig.ask("GET", f"/api/v1/tasks/{task_id}/preview?v=1", headers=headers)


async def until_shown(rig: Rig, task_id: TaskId, content: bytes) -> Reply:
    async def shown() -> bool:
        return (await preview(rig, task_id)).body == content

    await eventually(shown)
    return await preview(rig, task_id)


async def test_the_latest_preview_is_shown_under_an_etag_that_changes_with_it(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id, kept = await rig.submit(), Previews(rig.bus)
        await rig.start(task_id)
        await kept.put(task_id, 1, JPEG)
        first = await until_shown(rig, task_id, JPEG)
        assert first.status == 200
        assert first.headers["content-type"] == "image/jpeg"
        assert first.headers["cache-control"] == "no-cache"
        assert first.headers["x-content-type-options"] == "nosniff"
        again = await preview(rig, task_id, **{"if-none-match": first.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        head = await rig.ask("HEAD", f"/api/v1/tasks/{task_id}/preview")
        assert (head.status, head.headers["content-length"]) == (200, str(len(JPEG)))
        await kept.put(task_id, 1, PNG)
        second = await until_shown(rig, task_id, PNG)
        assert second.headers["content-type"] == "image/png"
        assert second.headers["etag"] != first.headers["etag"]


async def test_a_preview_is_shown_only_while_its_own_attempt_runs(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id, kept = await rig.submit(), Previews(rig.bus)
        assert (await preview(rig, task_id)).refusal() == NONE, "nothing runs"
        await rig.start(task_id)
        assert (await preview(rig, task_id)).refusal() == NONE, "the backend has shown none"
        await kept.put(task_id, 1, JPEG)
        await until_shown(rig, task_id, JPEG)
        await rig.append(task_id, attempt_failed())
        await eventually(lambda: refused(rig, task_id))
        await rig.append(task_id, TaskStarted(attempt=2, backend=BackendId("image-1"), dispatcher="test"))
        await eventually(lambda: shows(rig, task_id, "RUNNING"))
        assert (await preview(rig, task_id)).refusal() == NONE, "it is of the attempt before"
        await kept.put(task_id, 2, PNG)
        await until_shown(rig, task_id, PNG)
        await rig.fail(task_id)
        await eventually(lambda: refused(rig, task_id))
        assert await kept.get(task_id), "though it is there"


async def refused(rig: Rig, task_id: TaskId) -> bool:
    return (await preview(rig, task_id)).status == 404


async def shows(rig: Rig, task_id: TaskId, status: str) -> bool:
    reply = await rig.ask("GET", f"/api/v1/tasks/{task_id}")
    return bool(reply.json["status"] == status)


async def test_what_is_no_task_and_what_is_no_id_are_refused_as_everywhere(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        assert (await preview(rig, clock.new_task_id())).refusal() == (404, "unknown_task", None)
        assert (await preview(rig, TaskId("x"))).refusal()[:2] == (422, "invalid_id")
        task_id = await rig.submit()
        wrong = await rig.ask("GET", f"/api/v1/tasks/{task_id}/preview?size=9")
        assert wrong.refusal() == (422, "unknown_member", "size")


@pytest.mark.parametrize(
    ("content", "attempt"),
    [(b"<svg/>", "1"), (JPEG.ljust(previews.MAX_BYTES + 1, b"."), "1"), (JPEG, "one"), (JPEG, None)],
)
async def test_what_is_no_preview_is_not_given(bus: Bus, content: bytes, attempt: str | None) -> None:
    await prepare(bus, Settings(artifact_gib=1))
    task_id = clock.new_task_id()
    headers = {} if attempt is None else {previews.ATTEMPT: attempt}
    await bus.publish(preview_subject(task_id), content, headers)
    assert await Previews(bus).get(task_id) is None


async def test_a_stream_from_before_there_were_previews_takes_them_once_init_has_run(bus: Bus) -> None:
    wanted = {config["name"]: config for config in streams(max_age_days=14, artifact_bytes=1 << 30)}
    await ensure_stream(bus, {**wanted[PROGRESS], "subjects": ["progress.*"]})
    await prepare(bus, Settings(artifact_gib=1))
    kept, task_id = Previews(bus), clock.new_task_id()
    await kept.put(task_id, 1, JPEG)

    async def stored() -> bool:
        return await kept.get(task_id) is not None

    await eventually(stored)


async def test_a_purge_takes_one_task_s_preview_and_leaves_the_others(bus: Bus) -> None:
    await prepare(bus, Settings(artifact_gib=1))
    kept, mine, other = Previews(bus), clock.new_task_id(), clock.new_task_id()
    await asyncio.gather(*(kept.put(task_id, 1, JPEG) for task_id in (mine, other)))

    async def stored() -> bool:
        return None not in (await kept.get(mine), await kept.get(other))

    await eventually(stored)
    await kept.purge(mine)
    assert await kept.get(mine) is None
    found = await kept.get(other)
    assert found is not None
    assert (found.attempt, found.image, found.media_type) == (1, JPEG, "image/jpeg")
