"""The bytes of results: whole, in part, unchanged, and gone."""

from datetime import timedelta
from pathlib import Path

import pytest

from schemas.ids import ArtifactId
from services import clock
from tests.api import eventually, running, settings_for
from tests.nats import NatsServer

CONTENT = bytes(range(256)) * 2048  # more than one chunk of the store


@pytest.fixture(scope="module")
def expected() -> list[tuple[str, int, bytes, str | None]]:
    size = len(CONTENT)
    return [
        ("bytes=0-0", 206, CONTENT[:1], f"bytes 0-0/{size}"),
        ("bytes=100-299999", 206, CONTENT[100:300_000], f"bytes 100-299999/{size}"),
        (f"bytes={size - 5}-", 206, CONTENT[-5:], f"bytes {size - 5}-{size - 1}/{size}"),
        ("bytes=-7", 206, CONTENT[-7:], f"bytes {size - 7}-{size - 1}/{size}"),
        ("bytes=0-99999999", 206, CONTENT, f"bytes 0-{size - 1}/{size}"),
        ("bytes=0-1,3-4", 200, CONTENT, None),
        ("bytes=9-3", 200, CONTENT, None),
        ("nonsense", 200, CONTENT, None),
    ]


async def test_ranges(
    nats_server: NatsServer, tmp_path: Path, expected: list[tuple[str, int, bytes, str | None]]
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await rig.keep("upload-1", CONTENT, "audio/wav")
        for header, status, body, content_range in expected:
            reply = await rig.ask("GET", "/api/artifacts/upload-1", headers={"range": header})
            assert reply.status == status, header
            assert reply.body == body, header
            assert reply.headers.get("content-range") == content_range, header
            assert int(reply.headers["content-length"]) == len(body)
        beyond = await rig.ask("GET", "/api/artifacts/upload-1", headers={"range": "bytes=99999999-"})
        assert beyond.refusal() == (416, "range_not_satisfiable", "Range")
        assert beyond.headers["content-range"] == f"bytes */{len(CONTENT)}"


async def test_an_artifact_never_changes_and_says_so(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        info = await rig.keep("upload-1", CONTENT, "image/png")
        reply = await rig.ask("GET", "/api/images/upload-1")
        assert (reply.status, reply.body) == (200, CONTENT)
        assert reply.headers["etag"] == f'"{info.sha256}"'
        assert "immutable" in reply.headers["cache-control"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"] == "sandbox"
        assert reply.headers["content-disposition"] == 'inline; filename="upload-1.png"'
        same = await rig.ask("GET", "/api/images/upload-1", headers={"if-none-match": f'"{info.sha256}"'})
        assert (same.status, same.body) == (304, b"")
        head = await rig.ask("HEAD", "/api/images/upload-1")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) == len(CONTENT)
        assert {**head.headers, "Date": ""} == {**reply.headers, "Date": ""}
        part = await rig.ask("HEAD", "/api/images/upload-1", headers={"range": "bytes=0-9"})
        assert (part.status, int(part.headers["content-length"])) == (200, len(CONTENT))


async def test_a_range_of_something_else_gives_the_whole(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        info = await rig.keep("upload-1", CONTENT, "image/png")
        for etag, status in ((f'"{info.sha256}"', 206), ('"other"', 200)):
            headers = {"range": "bytes=0-9", "if-range": etag}
            assert (await rig.ask("GET", "/api/images/upload-1", headers=headers)).status == status


async def test_an_empty_artifact_is_empty(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await rig.keep("upload-1", b"", "text/plain")
        assert (await rig.ask("GET", "/api/artifacts/upload-1")).body == b""
        beyond = await rig.ask("GET", "/api/artifacts/upload-1", headers={"range": "bytes=0-"})
        assert beyond.status == 416


async def test_a_result_whose_bytes_are_gone_is_410(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        await rig.start(task_id)
        info = await rig.finish(task_id)
        await rig.ask("GET", f"/api/v1/tasks/{task_id}?wait=30")
        await rig.bus.api("STREAM.PURGE.OBJ_ARTIFACTS", {"filter": f"$O.ARTIFACTS.C.{info.nuid}"})
        half = await rig.ask("GET", f"/api/images/{info.artifact_id}")
        assert half.refusal() == (410, "expired_artifact", None)
        await rig.store.delete(info, clock.now())
        gone = await rig.ask("GET", f"/api/images/{info.artifact_id}")
        assert gone.refusal() == (410, "expired_artifact", None)
        other = await rig.ask("GET", f"/api/images/{ArtifactId(f'{task_id}-1-7')}")
        assert other.refusal() == (404, "no_such_artifact", None)


async def test_a_download_is_saved_under_its_name(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        task_id = clock.new_task_id()
        await rig.keep(f"{task_id}-2-0", CONTENT)
        for query, name in (
            ("?download", f'filename="{task_id}-0.png"'),
            ("?download=fox.png", 'filename="fox.png"'),
            ("?download=f%C3%BCchse.png", "filename=\"f_chse.png\"; filename*=UTF-8''f%C3%BCchse.png"),
        ):
            reply = await rig.ask("GET", f"/api/images/{task_id}-2-0{query}")
            assert reply.headers["content-disposition"] == f"attachment; {name}"
            assert reply.body == CONTENT
        unknown = await rig.ask("GET", f"/api/images/{task_id}-2-0?save=x")
        assert unknown.refusal() == (422, "unknown_member", "save")


@pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml"])
async def test_what_a_browser_could_run_is_saved_and_not_shown(
    nats_server: NatsServer, tmp_path: Path, media_type: str
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await rig.keep("upload-1", b"<script>alert(1)</script>", media_type)
        reply = await rig.ask("GET", "/api/artifacts/upload-1")
        assert reply.headers["content-disposition"].startswith("attachment;")
        assert reply.headers["x-content-type-options"] == "nosniff"


async def test_a_result_that_is_kept_for_a_time_is_410_after_it(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        await rig.start(task_id)
        info = await rig.finish(task_id, keep=timedelta(seconds=1))
        await rig.ask("GET", f"/api/v1/tasks/{task_id}?wait=30")

        async def expired() -> bool:
            return (await rig.ask("GET", f"/api/images/{info.artifact_id}")).status == 410

        await eventually(expired)
        gone = await rig.ask("GET", f"/api/images/{info.artifact_id}")
        assert gone.refusal() == (410, "expired_artifact", None)
