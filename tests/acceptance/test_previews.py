"""A picture that is seen while it is drawn, from two kinds of servers."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from schemas.ids import TaskId
from services.gpusim.model import ProfileName
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, eventually

WORKFLOW = Path(__file__).parents[2] / "deploy" / "comfyui" / "text-to-image.json"
STEP_MS = 400
"""A step of a picture of 256x256 takes a tenth of a second."""


async def shown(cluster: Cluster, task_id: TaskId, not_at: str | None = None) -> str:
    """Wait until a running task's document has a preview's address, another than that one."""

    async def look() -> str | None:
        document = await cluster.document(task_id)
        assert document["status"] != "DONE", "it was over too soon"
        url: str | None = (document["progress"] or {}).get("preview_url")
        return url if url != not_at else None

    return await eventually(look, "there is a preview")


async def fetched(cluster: Cluster, url: str) -> tuple[int, str, bytes]:
    async with cluster.http.get(f"{cluster.url}{url}") as answer:
        return answer.status, answer.content_type, await answer.read()


async def listed(cluster: Cluster) -> dict[str, Any]:  # Any: JSON
    status, answer = await cluster.ask("GET", "/api/v1/tasks")
    assert status == 200
    (task,) = answer["tasks"]
    return dict(task["progress"])


async def streamed(cluster: Cluster, task_id: TaskId) -> str:
    """Read the task's own stream up to the first progress with a preview."""
    async with cluster.http.get(f"{cluster.url}/api/v1/tasks/{task_id}/events") as answer:
        async for line in answer.content:
            if b'"preview_url":"' in line:
                return line.decode()
    return ""


@pytest.mark.parametrize("profile", [ProfileName.A1111, ProfileName.COMFYUI, ProfileName.COMFYUI_OLD])
async def test_a_picture_is_seen_while_it_is_drawn_and_no_longer(
    make_cluster: MakeCluster, profile: ProfileName
) -> None:
    cluster = make_cluster()
    query = "" if profile is ProfileName.A1111 else f"?workflow={WORKFLOW}"
    model = "sd_xl_base_1.0.safetensors"
    await cluster.gpu("IMAGE_GEN_URL_1", query, profile=profile, step_ms=STEP_MS, models=(model,))
    await cluster.up()
    task_id = await cluster.submit(steps=100)

    first_url = await shown(cluster, task_id)
    status, media_type, first = await fetched(cluster, first_url)

    assert status == 200
    assert Image.open(io.BytesIO(first)).size == (32, 32)
    assert media_type == ("image/png" if profile is ProfileName.A1111 else "image/jpeg")
    assert (await listed(cluster))["preview_url"].startswith(f"/api/v1/tasks/{task_id}/preview?v=")
    assert f"/api/v1/tasks/{task_id}/preview?v=" in await streamed(cluster, task_id)

    second_url = await shown(cluster, task_id, first_url)
    status, _, second = await fetched(cluster, second_url)

    assert status == 200
    assert second != first
    document = await cluster.finished(task_id)
    assert (document["status"], document["progress"]) == ("DONE", None)
    assert (await fetched(cluster, second_url))[0] == 404
