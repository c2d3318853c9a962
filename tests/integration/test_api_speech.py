"""Recordings come in piece by piece, and what is refused leaves nothing behind."""

import asyncio
import io
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.api import Rig, eventually, form, running, settings_for, wav
from tests.nats import NatsServer

SPEECH = "/api/v1/speech/async"
BOUNDARY = "b0undary"
AS_FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    name_of_file = f'; filename="{filename}"' if filename else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{name_of_file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def whole(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def test_a_recording_is_kept_and_can_be_fetched(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        recording = wav(10)
        fields = form(file=recording, language="en", temperature="0.5", translate="true", tags="a, b")
        fields.add_field("metadata", '{"x": 1}')
        reply = await rig.ask("POST", SPEECH, data=fields)
        assert reply.status == 202, reply.body
        shown = (await rig.ask("GET", reply.headers["location"])).json
        assert shown["kind"] == "speech"
        assert shown["tags"] == ["a", "b"]
        assert shown["metadata"] == {"x": 1}
        assert shown["request"]["temperature"] == 0.5
        assert shown["request"]["translate"] is True
        kept = await rig.ask("GET", f"/api/artifacts/{shown['request']['artifact']}")
        assert (kept.body, kept.headers["content-type"]) == (recording, "audio/wav")
        assert "memo.wav" in kept.headers["content-disposition"]


async def test_members_may_follow_the_file(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        body = whole(part("file", wav(), "a.wav"), part("language", b"de"))
        reply = await rig.ask("POST", SPEECH, data=body, headers=AS_FORM)
        assert (await rig.ask("GET", reply.headers["location"])).json["request"]["language"] == "de"


async def test_a_stored_recording_can_be_named(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await rig.keep("upload-1", wav(), "audio/wav")
        await rig.keep("picture-1", b"png", "image/png")
        assert (await rig.ask("POST", SPEECH, json={"artifact": "upload-1"})).status == 202
        assert (
            await rig.ask("POST", SPEECH, data=whole(part("artifact", b"upload-1")), headers=AS_FORM)
        ).status == 202
        reply = await rig.ask("POST", SPEECH, json={"artifact": "picture-1"})
        assert reply.refusal() == (422, "unknown_artifact", "artifact")


async def test_the_same_key_and_file_make_one_task_and_keep_one_file(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        key = {"idempotency-key": "k"}
        replies = await asyncio.gather(
            *(rig.ask("POST", SPEECH, data=form(file=wav()), headers=key) for _ in range(10))
        )
        assert {reply.status for reply in replies} == {202}
        assert len({reply.json["task_id"] for reply in replies}) == 1
        assert await rig.objects() == 1
        other = await rig.ask("POST", SPEECH, data=form(file=wav(0.2)), headers=key)
        assert other.refusal() == (422, "idempotency_key_reused", None)
        assert await rig.objects() == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (whole(part("file", b"", "a.wav")), (422, "broken_audio", "file")),
        (whole(part("file", wav()[:30], "a.wav")), (422, "broken_audio", "file")),
        (whole(part("file", b"\x89PNG\r\n\x1a\n" * 100, "a.wav")), (415, "unsupported_audio", "file")),
        (whole(part("file", wav()), part("file", wav())), (422, "conflicting_members", "file")),
        (whole(part("file", wav()), part("artifact", b"x")), (422, "conflicting_members", "artifact")),
        (whole(part("file", wav()), part("colour", b"red")), (422, "unknown_member", "colour")),
        (whole(part("file", wav()), part("temperature", b"hot")), (422, "wrong_type", "temperature")),
        (whole(part("file", wav()), part("temperature", b"7")), (422, "out_of_range", "temperature")),
        (whole(part("file", wav()), part("model", b"nope")), (422, "unknown_model", "model")),
        (whole(part("file", wav()), part("metadata", b"{")), (422, "wrong_type", "metadata")),
        (whole(part("file", wav()), part("prompt", b"\xff")), (400, "malformed", "prompt")),
        (
            whole(part("file", wav()), part("prompt", b"x" * 65_537)),
            (413, "body_too_large", "prompt"),
        ),
        (whole(part("language", b"en"), part("language", b"de")), (422, "conflicting_members", "language")),
        (whole(part("language", b"en")), (422, "missing_member", "file")),
        (whole(), (422, "missing_member", "file")),
        (part("file", wav(20), "a.wav"), (400, "malformed", None)),
        (part("file", wav(20), "a.wav")[:300_000], (400, "malformed", None)),
        (b"nonsense", (400, "malformed", None)),
        (b"", (400, "malformed", None)),
    ],
)
async def test_a_form_that_is_refused_leaves_nothing(
    nats_server: NatsServer, tmp_path: Path, body: bytes, expected: tuple[int, str, str | None]
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        reply = await rig.ask("POST", SPEECH, data=body, headers=AS_FORM)
        assert reply.refusal() == expected
        assert (await rig.objects(), await rig.stored_tasks()) == (0, 0)


async def test_other_media_types_are_refused(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        reply = await rig.ask("POST", SPEECH, data=wav(), headers={"content-type": "audio/wav"})
        assert reply.refusal() == (415, "unsupported_media_type", "Content-Type")
        reply = await rig.ask("POST", SPEECH, data=b"x", headers={"content-type": "multipart/form-data"})
        assert reply.refusal() == (400, "malformed", None)


async def pieces(head: bytes, total: int) -> AsyncIterator[bytes]:
    yield head
    for _ in range(total // 65_536):
        yield b"\x00" * 65_536


@pytest.mark.parametrize("announced", [True, False])
async def test_a_recording_that_is_too_large_is_refused(
    nats_server: NatsServer, tmp_path: Path, *, announced: bool
) -> None:
    async with running(settings_for(nats_server, tmp_path, max_upload_mib=1), projected=False) as rig:
        head = part("file", wav(), "a.wav")[:-2]
        if announced:
            reply = await rig.ask(
                "POST", SPEECH, data=io.BytesIO(head + b"\x00" * 3_000_000), headers=AS_FORM
            )
        else:
            reply = await rig.ask("POST", SPEECH, data=pieces(head, 1_500_000), headers=AS_FORM)
        assert reply.refusal()[:2] == (413, "body_too_large")
        assert "1 MiB" in reply.json["detail"]
        assert await rig.objects() == 0


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        parts = urlsplit(rig.url)
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = f"POST {SPEECH} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n"
        writer.write(f"{head}Content-Type: {AS_FORM['content-type']}\r\n\r\n".encode())
        writer.write(part("file", wav(60), "a.wav"))
        await writer.drain()

        async def arriving() -> bool:
            return await rig.objects() > 0

        async def gone() -> bool:
            return await rig.objects() == 0

        await eventually(arriving)
        writer.transport.abort()
        await eventually(gone)
        assert await rig.stored_tasks() == 0


async def test_a_large_recording_is_never_whole_in_memory(nats_server: NatsServer, tmp_path: Path) -> None:
    size = 64 * 1024 * 1024

    async def recording() -> AsyncIterator[bytes]:
        async for piece in pieces(part("file", wav(), "a.wav")[:-2], size):
            yield piece
        yield f"\r\n--{BOUNDARY}--\r\n".encode()

    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        tracemalloc.start()
        try:
            reply = await rig.ask("POST", SPEECH, data=recording(), headers=AS_FORM)
            assert reply.status == 202
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16 * 1024 * 1024
        assert await rig.objects() > size // (128 * 1024)


async def test_a_full_queue_keeps_no_recording(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path, queue_limit=1), projected=False) as rig:
        first: Rig = rig
        assert (await first.ask("POST", SPEECH, data=form(file=wav()))).status == 202
        reply = await rig.ask("POST", SPEECH, data=form(file=wav()))
        assert reply.refusal() == (503, "queue_full", None)
        assert await rig.objects() == 1
