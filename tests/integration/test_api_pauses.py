"""Stopping and starting queues."""

from pathlib import Path

import pytest

from schemas import control
from schemas.errors import Code
from schemas.subjects import CONTROL
from services.bus.buckets import Bucket
from tests.api import Json, Reply, Rig, running, settings_for
from tests.nats import NatsServer

QUEUES = "/api/v1/queues"


async def pause(rig: Rig, kind: str = "image", **body: str) -> Reply:
    return await rig.ask("POST", f"{QUEUES}/{kind}/pause", json=body)


async def resume(rig: Rig, kind: str = "image", **body: str) -> Reply:
    return await rig.ask("POST", f"{QUEUES}/{kind}/resume", json=body)


def models(reply: Reply) -> list[str | None]:
    assert reply.status == 200, reply.body
    return [one["model"] for one in reply.json["pauses"]]


async def queues(rig: Rig) -> dict[tuple[str, str], Json | None]:
    shown = (await rig.ask("GET", QUEUES)).json["queues"]
    return {(one["kind"], one["model"]): one["paused"] for one in shown}


async def test_a_kind_is_paused_and_resumed(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await rig.know_model()
        paused = await pause(rig, reason="new drivers")
        (held,) = paused.json["pauses"]
        assert (paused.json["kind"], held["model"], held["reason"]) == ("image", None, "new drivers")
        told = {name: held[name] for name in ("at", "by", "reason")}
        assert await queues(rig) == {("image", "any"): told}
        entry = await Bucket(rig.bus, CONTROL).get("pause.image")
        assert entry.value is not None
        assert control.decode(entry.value).reason == "new drivers"
        assert models(await resume(rig)) == []
        assert await queues(rig) == {("image", "any"): None}
        assert (await Bucket(rig.bus, CONTROL).get("pause.image")).value is None


async def test_a_body_may_be_left_out(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        for verb, expected in (("pause", [None]), ("resume", [])):
            assert models(await rig.ask("POST", f"{QUEUES}/speech/{verb}")) == expected


async def test_both_are_safe_twice(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        assert models(await resume(rig)) == []
        first = await pause(rig, reason="drivers")
        assert (await pause(rig)).json == first.json
        assert (await pause(rig, reason="drivers")).json == first.json
        other = await pause(rig, reason="a fire")
        assert [one["reason"] for one in other.json["pauses"]] == ["a fire"]
        assert models(await resume(rig)) == models(await resume(rig)) == []


async def test_one_queue_is_paused_by_its_model_even_ahead_of_time(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        await rig.know_model()
        assert models(await pause(rig, model="Qwen/Qwen-Image")) == ["qwen-qwen-image"]
        assert models(await pause(rig, model="any")) == ["any", "qwen-qwen-image"]
        assert models(await pause(rig, "speech")) == [None]
        shown = await queues(rig)
        assert {queue for queue, paused in shown.items() if paused} == {
            ("image", "any"),
            ("image", "qwen-qwen-image"),
        }
        assert models(await pause(rig)) == [None, "any", "qwen-qwen-image"]
        assert models(await resume(rig, model="any")) == [None, "qwen-qwen-image"]
        assert models(await resume(rig)) == ["qwen-qwen-image"]
        assert models(await resume(rig, model="qwen-qwen-image")) == []
        assert await queues(rig) == {("image", "any"): None}


async def test_a_pause_is_known_to_an_api_that_starts_later(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path)
    async with running(settings) as rig:
        await pause(rig, model="flux")
    async with running(settings_for(nats_server, tmp_path / "other")) as rig:
        assert [queue for queue, paused in (await queues(rig)).items() if paused] == [("image", "flux")]


async def test_a_pause_that_nobody_can_read_holds_nothing_and_is_written_over(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        assert await Bucket(rig.bus, CONTROL).replace("pause.image", b"{", 0)
        assert models(await pause(rig, "speech")) == [None]
        assert models(await pause(rig, reason="drivers")) == [None]
        assert models(await resume(rig)) == []


@pytest.mark.parametrize(
    ("path", "body", "code", "member"),
    [
        ("video/pause", {}, Code.UNKNOWN_KIND, "kind"),
        ("video/resume", {}, Code.UNKNOWN_KIND, "kind"),
        ("%3E/resume", {}, Code.UNKNOWN_KIND, "kind"),
        ("image/pause", {"model": ""}, Code.OUT_OF_RANGE, "model"),
        ("image/pause", {"model": 7}, Code.WRONG_TYPE, "model"),
        ("image/pause", {"reason": "x" * 1001}, Code.OUT_OF_RANGE, "reason"),
        ("image/pause", {"until": "tomorrow"}, Code.UNKNOWN_MEMBER, "until"),
        ("image/resume", {"reason": "done"}, Code.UNKNOWN_MEMBER, "reason"),
        ("image/pause?for=1h", {}, Code.UNKNOWN_MEMBER, "for"),
    ],
)
async def test_what_is_wrong_is_refused_by_name(
    nats_server: NatsServer, tmp_path: Path, path: str, body: Json, code: Code, member: str
) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        assert (await rig.ask("POST", f"{QUEUES}/{path}", json=body)).refusal() == (422, code, member)
        assert await Bucket(rig.bus, CONTROL).all() == []


async def test_without_nats_nothing_is_paused(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path), projected=False) as rig:
        nats_server.kill()
        assert (await pause(rig)).refusal()[:2] == (503, Code.NATS_AWAY)
