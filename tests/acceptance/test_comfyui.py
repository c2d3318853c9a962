"""A ComfyUI, from its url and its workflow to a picture, and a prompt whose dispatcher died."""

from pathlib import Path

from services.gpusim.control import Control
from services.gpusim.model import Fault, ProfileName
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, Process, eventually

WORKFLOW = Path(__file__).parents[2] / "deploy" / "comfyui" / "text-to-image.json"
MODEL = "sd_xl_base_1.0.safetensors"


async def with_workflow(cluster: Cluster) -> Control:
    gpu = await cluster.gpu("IMAGE_GEN_URL_1", profile=ProfileName.COMFYUI, models=(MODEL,))
    cluster.use("IMAGE_GEN_URL_1", f"{cluster.environment()['IMAGE_GEN_URL_1']}?workflow={WORKFLOW}")
    return gpu


async def test_a_picture_is_drawn_as_the_workflow_and_the_task_say(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    gpu = await with_workflow(cluster)
    await cluster.up()

    document = await cluster.finished(await cluster.submit("a red fox", seed=7, n=2))

    assert document["status"] == "DONE", document
    assert len(document["artifacts"]) == 2
    assert [(job.prompt, job.seed) for job in await gpu.jobs()] == [("a red fox", 7), ("a red fox", 8)]
    status, answer = await cluster.ask("GET", "/api/v1/backends")
    assert status == 200
    (backend,) = answer["backends"]
    assert (backend["protocol"], backend["models"]) == ("comfyui", [MODEL])


async def test_the_next_dispatcher_follows_a_prompt_and_draws_nothing_again(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(lease_s=2)
    gpu = await with_workflow(cluster)
    _, dying, _ = await cluster.start("projector", "dispatcher-1", "api")
    await gpu.script(Fault.HANG)
    task_id = await cluster.submit("a red fox", n=2)
    await cluster.reached(task_id, "RUNNING")

    async def running() -> bool:
        return (await gpu.stats()).running == 1

    await eventually(running, "the prompt runs")
    dying.kill()
    await cluster.start("dispatcher-2")
    await gpu.clear()
    document = await cluster.finished(task_id)

    assert document["status"] == "DONE", document
    assert len(document["artifacts"]) == 2
    stats = await gpu.stats()
    assert (stats.jobs.received, stats.max_waiting) == (2, 1)


async def test_a_workflow_that_cannot_be_read_ends_init_with_one_line(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.use("IMAGE_GEN_URL_1", f"http://127.0.0.1:9?workflow={cluster.folder}/absent.json")
    logs = cluster.folder / "logs"
    logs.mkdir()

    init = Process("init", cluster.environment(), logs)

    assert await init.ended() == 1
    line = init.log.read_text().splitlines()[-1]
    assert line.startswith("taskfold: IMAGE_GEN_URL_1: the workflow ")
    assert line.endswith("absent.json': cannot be read: No such file or directory")
