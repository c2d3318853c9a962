"""Whatever breaks, no GPU ever has more to do than its slots, and what was accepted ends exactly once."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from schemas.events import TaskDone
from schemas.ids import TaskId
from services.gpusim.model import Fault, ProfileName
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, Process, eventually, types
from tests.gpu import Gpu
from tests.history import end, histories

WORKFLOW = Path(__file__).parents[2] / "deploy" / "comfyui" / "text-to-image.json"
MODELS = {ProfileName.COMFYUI: ("sd_xl_base_1.0.safetensors",)}
PROFILES = (ProfileName.SDCPP, ProfileName.OPENAI, ProfileName.A1111, ProfileName.COMFYUI)
SDCPP, OPENAI, A1111, COMFYUI = (f"image-{number}" for number, _ in enumerate(PROFILES, 1))
RESUMED = (SDCPP, COMFYUI)
DISPATCHERS = ("dispatcher-1", "dispatcher-2", "dispatcher-3")
PATIENT = {"lease_s": 2, "retry_base_s": 0.05, "retry_cap_s": 0.2, "max_attempts": 20}


class Fleet:
    """A GPU of each protocol, and what was submitted to them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.gpus: dict[str, Gpu] = {}
        self.accepted: list[TaskId] = []

    async def submit(self, *backends: str | None) -> list[TaskId]:
        """Submit a task for each; None: for whichever GPU it comes to."""
        named = [{} if backend is None else {"backend": backend} for backend in backends]
        ids = [await self.cluster.submit(f"a fox for {backend}", **backend) for backend in named]
        self.accepted += ids
        return ids

    async def script(self, mode: Fault, *names: str, seconds: float | None = None) -> None:
        await asyncio.gather(*(self.gpus[name].script(mode, seconds=seconds) for name in names))

    async def clear(self) -> None:
        await asyncio.gather(*(gpu.clear() for gpu in self.gpus.values()))

    async def at_work(self, *names: str, running: int = 1) -> None:
        """Wait until so many jobs run on each of these GPUs."""

        async def look() -> bool:
            stats = [await self.gpus[name].stats() for name in names]
            return all(each.running == running for each in stats)

        await eventually(look, f"{running} at work on each of {names}")

    async def attached(self, task_ids: Sequence[TaskId], times: int = 1) -> None:
        """Wait until the log has the ids by which these attempts can be found again."""

        async def look() -> bool:
            told = [types(await self.cluster.history(task_id)) for task_id in task_ids]
            return all(each.count("attached") >= times for each in told)

        await eventually(look, f"attached {times} times")

    async def shown(self, condition: str, *names: str) -> None:
        async def look() -> bool:
            _, answer = await self.cluster.ask("GET", "/api/v1/backends")
            shown = {each["name"]: each["condition"] for each in answer["backends"]}
            return all(shown[name] == condition for name in names)

        await eventually(look, f"{condition}: {names}")

    async def ends_well(self, slots: int = 1) -> None:
        """Wait for the end of everything, and hold it to the two promises."""
        for task_id in self.accepted:
            await self.cluster.finished(task_id)
        for name, gpu in self.gpus.items():
            assert (await gpu.stats()).max_waiting <= slots, f"{name} was overbooked"
        async with self.cluster.log() as (bus, _):
            found = await histories(bus)
        assert sorted(found) == sorted(self.accepted)
        for history in found.values():
            end(history)

    async def done(self, task_ids: Sequence[TaskId]) -> None:
        """See that these have a result, which ``ends_well`` alone does not say."""
        async with self.cluster.log() as (bus, _):
            found = await histories(bus)
        assert {type(end(found[task_id]).event) for task_id in task_ids} == {TaskDone}


async def fleet(cluster: Cluster, *profiles: ProfileName, query: str = "", **options: float) -> Fleet:
    """Start GPUs of these protocols, ``image-1`` and so on, then the api and what it needs."""
    made = Fleet(cluster)
    for number, profile in enumerate(profiles or PROFILES, 1):
        known = {"models": MODELS[profile]} if profile in MODELS else {}
        workflow = f"?workflow={WORKFLOW}" if profile is ProfileName.COMFYUI else query
        gpu = await cluster.gpu(
            f"IMAGE_GEN_URL_{number}", workflow, profile=profile, sigma=0.0, **known, **options
        )
        made.gpus[f"image-{number}"] = gpu
    await cluster.start("projector", "api")
    return made


async def begin(made: Fleet, *dispatchers: str) -> list[Process]:
    """Start dispatchers, and wait until every GPU can be given work."""
    started = await made.cluster.start(*dispatchers)
    await made.shown("up", *made.gpus)
    return started


async def test_jobs_that_fail_in_every_way_are_made_again(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(**PATIENT, circuit_open_s=0.5, unknown_run_s=1)
    made = await fleet(cluster, step_ms=10.0)
    await begin(made, *DISPATCHERS)
    for mode in (Fault.HTTP500, Fault.OOM, Fault.GARBAGE, Fault.BUSY):
        await made.script(mode, *made.gpus)
    await made.script(Fault.SLOW, *made.gpus, seconds=0.3)
    tasks = await made.submit(*[*made.gpus] * 6)
    await asyncio.gather(*(cluster.finished(task_id) for task_id in tasks))
    await made.script(Fault.REFUSE, *made.gpus, seconds=0.5)
    tasks += await made.submit(*[None] * 12)

    await made.ends_well()

    await made.done(tasks)
    assert [await gpu.faults() for gpu in made.gpus.values()] == [[]] * len(PROFILES)


async def test_gpus_that_crash_at_their_work_come_back_to_one_job_at_a_time(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(**PATIENT, unknown_run_s=1)
    made = await fleet(cluster, step_ms=10.0, startup_s=0.3)
    await begin(made, *DISPATCHERS)
    await made.script(Fault.CRASH, *made.gpus)
    tasks = await made.submit(*made.gpus, *[None] * 20)

    await made.ends_well()

    await made.done(tasks)
    assert {(await gpu.stats()).jobs.received > 1 for gpu in made.gpus.values()} == {True}
