"""``taskfold simulate`` on what a real api still knows."""

from pathlib import Path

import pytest

from services.cli import replay
from tests.api import eventually, running, settings_for
from tests.nats import NatsServer

TASKS = 3


async def test_the_past_is_read_from_the_api_and_from_what_the_api_gave(
    nats_server: NatsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        for _ in range(TASKS):
            task_id = await rig.submit()
            await rig.start(task_id)
            await rig.finish(task_id)
        await rig.submit()

        async def all_there() -> bool:
            events = (await rig.ask("GET", "/api/v1/events", headers=JSON)).json["events"]
            return len(events) == 3 * TASKS + 1

        await eventually(all_there)
        past = await replay.from_api(rig.url, 100)
        page = (await rig.ask("GET", "/api/v1/events", headers=JSON)).body
        backends = (await rig.ask("GET", "/api/v1/backends")).body
    assert (len(past.arrivals), past.left_out) == (TASKS, 1)
    assert [machine.name for machine in past.machines] == ["image-1"]

    file = tmp_path / "recorded.jsonl"
    file.write_bytes(page + b"\n" + backends + b"\n")
    assert await replay.from_file(str(file), 100) == past
    await replay.compare(replay.from_file(str(file), 100), ["round_robin"], as_json=False)
    assert "round_robin" in capsys.readouterr().out


JSON = {"accept": "application/json"}
