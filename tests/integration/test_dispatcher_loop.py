"""The loop of a dispatcher, with a simulated GPU, when what it knows of the lanes is wrong."""

from pathlib import Path

import pytest

from schemas import registry
from schemas.ids import BackendId
from schemas.registry import Backend
from schemas.requests import Kind
from schemas.subjects import BACKENDS, Lane
from services.bus.buckets import Bucket
from services.bus.tickets import Puller, Ticket
from services.dispatcher import depths
from services.dispatcher import main as dispatcher
from services.gpusim.model import Options, ProfileName
from services.process import background
from tests.api import beside, eventually, running, settings_for
from tests.gpu import Gpu
from tests.nats import NatsServer


async def test_a_lane_that_was_found_empty_by_mistake_is_soon_looked_at_again(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed: list[Lane] = []
    pull = Puller.pull

    async def late(self: Puller, lane: Lane, wait_s: float) -> Ticket | None:
        if not missed:  # as of a server that was too busy to answer in time
            missed.append(lane)
            return None
        return await pull(self, lane, wait_s)

    monkeypatch.setattr(Puller, "pull", late)
    monkeypatch.setattr(depths, "REFRESH_S", 3600.0)
    settings = settings_for(nats_server, tmp_path)
    async with running(settings) as rig:
        gpu = Gpu(rig.session, Options(profile=ProfileName.OPENAI, step_ms=0))
        backend = Backend(name=BackendId("image-1"), url=gpu.url, kind=Kind.IMAGE)
        async with background(gpu.run()), beside(dispatcher.serve, settings):
            await Bucket(rig.bus, BACKENDS).replace(backend.name, registry.encode(backend), 0)
            task_id = await rig.submit()

            async def done() -> bool:
                return bool((await rig.ask("GET", f"/api/v1/tasks/{task_id}")).json["status"] == "DONE")

            await eventually(done)
    assert len(missed) == 1
