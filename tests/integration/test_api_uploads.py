"""Recordings that come before any task names them: in parts, cut off, from two sides, and not at all."""

import asyncio
import hashlib
import io
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from schemas.ids import UploadId
from schemas.subjects import UPLOAD_MARKS, object_chunk_subject
from tests.api import Reply, Rig, eventually, running, running_api, settings_for, until_ready, wav
from tests.nats import NatsServer

ID = str(UUID(int=0x0199D4E87C1A70008000_0123456789AB))
UPLOAD = f"/api/v1/uploads/{ID}"
ARTIFACT = f"upload-{ID}"
SPEECH = "/api/v1/speech/async"
RECORDING = wav(20)  # several chunks, the last one short


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def put(rig: Rig, content: Any, offset: int = 0, **more: str) -> Reply:  # Any: what aiohttp sends
    headers = {"upload-offset": str(offset), **{k.replace("_", "-"): v for k, v in more.items()}}
    return await rig.ask("PUT", UPLOAD, data=content, headers=headers)


async def offset(rig: Rig) -> int:
    """How far the upload is, 0 where there is none."""
    reply = await rig.ask("HEAD", UPLOAD)
    return int(reply.headers.get("upload-offset", 0))


async def marks(rig: Rig) -> int:
    info = await rig.bus.api("STREAM.INFO.OBJ_ARTIFACTS", {"subjects_filter": UPLOAD_MARKS})
    return sum((info["state"].get("subjects") or {}).values())


async def cut_off(rig: Rig, content: bytes, begins_at: int = 0, least: int = 1) -> None:
    """Send a part of what was announced and break the connection once some of it is stored."""
    parts = urlsplit(rig.url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"PUT {UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n"
    writer.write(f"{head}Upload-Offset: {begins_at}\r\n\r\n".encode() + content)
    await writer.drain()

    async def arrived() -> bool:
        return await offset(rig) >= begins_at + least

    await eventually(arrived)
    writer.transport.abort()


async def test_a_recording_is_brought_in_first_and_named_by_a_task_later(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        reply = await rig.ask("PUT", f"{UPLOAD}?filename=a/talk.wav", data=RECORDING)
        assert reply.status == 201, reply.body
        assert reply.headers["upload-complete"] == "?1"
        assert reply.headers["location"] == reply.json["url"] == f"/api/artifacts/{ARTIFACT}"
        assert reply.json["artifact_id"] == ARTIFACT
        assert reply.json["sha256"] == digest(RECORDING)
        assert (reply.json["media_type"], reply.json["filename"]) == ("audio/wav", "talk.wav")
        kept = await rig.ask("GET", reply.json["url"])
        assert (kept.body, kept.headers["content-type"]) == (RECORDING, "audio/wav")
        assert kept.headers["etag"] == f'"{digest(RECORDING)}"'
        submitted = await rig.ask("POST", SPEECH, json={"artifact": ARTIFACT})
        assert submitted.status == 202
        shown = (await rig.ask("GET", submitted.headers["location"])).json
        assert shown["request"]["artifact"] == ARTIFACT


async def test_parts_of_any_size_make_the_same_recording(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        begins_at = 0
        for size in (0, 10, 70_000, 131_072, 1, 300_000):
            reply = await put(rig, RECORDING[begins_at : begins_at + size], begins_at, upload_complete="?0")
            begins_at += size
            assert (reply.status, int(reply.headers["upload-offset"])) == (200, begins_at)
            assert (reply.headers["upload-complete"], reply.json["artifact_id"]) == ("?0", None)
            seen = (await rig.ask("GET", UPLOAD)).json
            assert seen.pop("expires_at") is not None
            assert seen.items() <= reply.json.items()
        assert (await rig.ask("GET", f"/api/artifacts/{ARTIFACT}")).status == 404
        last = await put(rig, RECORDING[begins_at:], begins_at)
        assert (last.status, last.json["sha256"]) == (201, digest(RECORDING))
        assert (await rig.ask("GET", f"/api/artifacts/{ARTIFACT}")).body == RECORDING
        part = await rig.ask("GET", f"/api/artifacts/{ARTIFACT}", headers={"range": "bytes=60000-250000"})
        assert part.body == RECORDING[60_000:250_001]


async def test_what_a_broken_connection_brought_is_kept_and_gone_on_with_by_another_api(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path)
    async with running(settings, projected=False) as rig, running_api(settings) as other_url:
        await cut_off(rig, RECORDING[:500_000])
        other = Rig(other_url, rig.bus, rig.session, settings)
        await until_ready(other, projected=False)
        reached = await offset(other)
        assert 0 < reached <= 500_000
        await cut_off(other, RECORDING[reached : reached + 140_000], reached)

        async def goes_on() -> bool:
            reached = await offset(rig)
            return (await put(rig, RECORDING[reached:], reached)).status == 201

        await eventually(goes_on)  # what is still arriving of the one cut off may come first
        seen = (await rig.ask("GET", UPLOAD)).json
        assert seen["sha256"] == digest(RECORDING)
        assert (await other.ask("GET", seen["url"])).body == RECORDING


async def test_what_was_not_yet_a_chunk_is_kept_when_the_client_goes(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        parts = urlsplit(rig.url)
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"PUT {UPLOAD} HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n".encode())
        writer.write(RECORDING[:500])

        async def begun() -> bool:
            return await marks(rig) > 0

        async def stored() -> bool:
            return await offset(rig) == 500

        await eventually(begun)
        writer.transport.abort()
        await eventually(stored)


async def test_a_wrong_offset_is_refused_with_the_right_one(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        beyond = await put(rig, RECORDING[5:], 5)
        assert beyond.refusal() == (409, "wrong_offset", "Upload-Offset")
        assert beyond.headers["upload-offset"] == "0"
        await put(rig, RECORDING[:1000], upload_complete="?0")
        for wrong in (0, 999, 1001):
            reply = await put(rig, RECORDING[wrong:], wrong)
            assert reply.refusal() == (409, "wrong_offset", "Upload-Offset")
            assert reply.headers["upload-offset"] == "1000"
        assert (await put(rig, RECORDING[1000:], 1000)).json["sha256"] == digest(RECORDING)


async def test_a_finished_upload_that_is_sent_again_is_finished(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        first = await put(rig, RECORDING)
        size = len(RECORDING)
        for content, begins_at in ((RECORDING, 0), (RECORDING[-9:], size - 9), (b"", size)):
            again = await put(rig, content, begins_at)
            assert (again.status, again.json) == (200, first.json)
        for content in (RECORDING[:-1], RECORDING + b"x"):
            other = await put(rig, content)
            assert other.refusal() == (409, "wrong_offset", "Upload-Offset")
            assert other.headers["upload-offset"] == str(size)


async def test_of_many_writers_at_once_one_wins_and_nothing_interleaves(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path)
    recordings = [RECORDING[:44] + bytes([n]) * 900_000 for n in range(1, 7)]
    async with running(settings, projected=False) as rig, running_api(settings) as other_url:
        sides = [rig, Rig(other_url, rig.bus, rig.session, settings)]
        await until_ready(sides[1], projected=False)
        replies = await asyncio.gather(
            *(put(sides[n % 2], content) for n, content in enumerate(recordings))
        )
        won = [n for n, reply in enumerate(replies) if reply.status == 201]
        lost = {reply.refusal()[:2] for reply in replies if reply.status != 201}
        assert len(won) == 1
        assert lost == {(409, "wrong_offset")}
        assert (await rig.ask("GET", f"/api/artifacts/{ARTIFACT}")).body == recordings[won[0]]


async def test_a_writer_that_is_overtaken_stops_at_the_next_chunk(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    overtaken = asyncio.Event()

    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:

        async def slowly() -> AsyncIterator[bytes]:
            yield RECORDING[:131_072]
            await overtaken.wait()
            yield b"\xff" * 400_000

        slow = asyncio.create_task(put(rig, slowly()))

        async def begun() -> bool:
            return await offset(rig) == 131_072

        await eventually(begun)
        assert (await put(rig, RECORDING[131_072:], 131_072)).status == 201
        overtaken.set()
        assert (await slow).refusal() == (409, "wrong_offset", "Upload-Offset")
        assert (await rig.ask("GET", f"/api/artifacts/{ARTIFACT}")).body == RECORDING


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", (422, "broken_audio", "file")),
        (RECORDING[:30], (422, "broken_audio", "file")),
        (b"\x89PNG\r\n\x1a\n" * 100, (415, "unsupported_audio", "file")),
        (b"<html>" * 50_000, (415, "unsupported_audio", "file")),
    ],
)
@pytest.mark.parametrize("parts", [1, 3])
async def test_what_is_no_recording_leaves_nothing(
    nats_server: NatsServer, tmp_path: Path, content: bytes, expected: tuple[int, str, str], parts: int
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        size = len(content) // parts
        for n in range(parts - 1):
            await put(rig, content[n * size : (n + 1) * size], n * size, upload_complete="?0")
        begins_at = await offset(rig)
        assert (await put(rig, content[begins_at:], begins_at)).refusal() == expected
        assert await rig.objects() == 0
        assert (await rig.ask("GET", UPLOAD)).refusal() == (404, "unknown_upload", None)
        assert (await put(rig, RECORDING)).json["sha256"] == digest(RECORDING)


@pytest.mark.parametrize("announced", [True, False])
async def test_more_than_a_recording_may_have_is_refused(
    nats_server: NatsServer, tmp_path: Path, *, announced: bool
) -> None:
    async def unannounced() -> AsyncIterator[bytes]:
        yield RECORDING
        yield bytes(1_000_000)

    async with running(settings_for(nats_server, tmp_path, max_upload_mib=1), projected=False) as rig:
        reply = await put(rig, io.BytesIO(RECORDING + bytes(1_000_000)) if announced else unannounced())
        assert reply.refusal() == (413, "body_too_large", None)
        assert "1 MiB" in reply.json["detail"]
        assert await rig.objects() == 0


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/api/v1/uploads/mine", {}, (422, "invalid_id", "upload_id")),
        (f"{UPLOAD}?name=x", {}, (422, "unknown_member", "name")),
        (UPLOAD, {"upload-offset": "-1"}, (422, "wrong_type", "Upload-Offset")),
        (UPLOAD, {"upload-complete": "yes"}, (422, "wrong_type", "Upload-Complete")),
    ],
)
async def test_what_cannot_be_meant_is_named(
    nats_server: NatsServer,
    tmp_path: Path,
    path: str,
    headers: dict[str, str],
    expected: tuple[int, str, str],
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        assert (await rig.ask("PUT", path, data=RECORDING, headers=headers)).refusal() == expected


async def test_an_upload_can_be_given_up_until_a_task_names_it(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        assert (await rig.ask("DELETE", UPLOAD)).refusal() == (404, "unknown_upload", None)
        await put(rig, RECORDING[:200_000], upload_complete="?0")
        assert (await rig.ask("DELETE", UPLOAD)).status == 204
        assert (await offset(rig), await rig.objects()) == (0, 0)
        await put(rig, RECORDING)
        assert (await rig.ask("POST", SPEECH, json={"artifact": ARTIFACT})).status == 202
        assert (await rig.ask("DELETE", UPLOAD)).refusal() == (409, "upload_in_use", None)
        assert (await rig.ask("GET", f"/api/artifacts/{ARTIFACT}")).body == RECORDING


async def test_a_finished_one_that_was_removed_is_gone_for_good(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await put(rig, RECORDING)
        assert (await rig.ask("DELETE", UPLOAD)).status == 204
        assert await rig.objects() == 0
        for method in ("GET", "PUT", "DELETE"):
            reply = await rig.ask(method, UPLOAD, data=b"" if method == "PUT" else None)
            assert reply.refusal() == (410, "expired_artifact", None)
        named = await rig.ask("POST", SPEECH, json={"artifact": ARTIFACT})
        assert named.refusal() == (422, "unknown_artifact", "artifact")


async def test_an_unfinished_upload_that_nobody_goes_on_with_goes_away(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path, upload_idle_s=0.3), projected=False) as rig:
        other = UPLOAD.replace("0199d4e8", "0199d4e9")
        assert (await rig.ask("PUT", other, data=RECORDING)).status == 201
        reply = await put(rig, RECORDING[:200_000], upload_complete="?0")
        assert reply.json["expires_at"] is not None

        async def gone() -> bool:
            return (await rig.ask("GET", UPLOAD)).status == 404

        await eventually(gone)
        assert (await rig.ask("GET", other)).status == 200


async def test_an_upload_is_kept_over_a_kill_of_the_server(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        await put(rig, RECORDING[:200_000], upload_complete="?0")
        nats_server.kill()
        away = await put(rig, RECORDING[200_000:], 200_000)
        assert away.refusal()[0] == 503
        nats_server.start()

        async def finished() -> bool:
            reached = (await rig.ask("HEAD", UPLOAD)).headers.get("upload-offset")
            return reached is not None and (
                await put(rig, RECORDING[int(reached) :], int(reached))
            ).status in (200, 201)

        await eventually(finished)
        assert (await rig.ask("GET", UPLOAD)).json["sha256"] == digest(RECORDING)


async def test_uploads_are_kept_as_long_as_the_setting_says(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path, upload_days=2.5 / 86_400)
    async with running(settings, projected=False) as rig:
        await put(rig, RECORDING[:200_000], upload_complete="?0")
        assert (await put(rig, RECORDING[200_000:], 200_000)).status == 201

        async def gone() -> bool:
            return (await rig.ask("GET", f"/api/artifacts/{ARTIFACT}")).status in (404, 410)

        await eventually(gone)
        chunk = object_chunk_subject(UploadId(ID))
        stored = (await rig.store.last(chunk))[chunk]
        assert stored.headers["Nats-TTL"] == "62s"  # what is being read then is read to its end


async def test_a_large_upload_is_never_whole_in_memory(nats_server: NatsServer, tmp_path: Path) -> None:
    async def large() -> AsyncIterator[bytes]:
        yield RECORDING
        for _ in range(1024):
            yield bytes(65_536)

    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        tracemalloc.start()
        try:
            assert (await put(rig, large())).status == 201
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16 * 1024 * 1024
