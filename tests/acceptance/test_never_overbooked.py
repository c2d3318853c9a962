"""Whatever breaks, no GPU ever has more to do than its slots, and what was accepted ends exactly once."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from schemas.events import TaskDone
from schemas.ids import TaskId
from services.gpusim.model import Fault, ProfileName
from tests.acceptance.conftest import MakeCluster
from tests.cluster import Cluster, Json, Process, eventually, types
from tests.gpu import Gpu
from tests.history import end, histories

WORKFLOW = Path(__file__).parents[2] / "deploy" / "comfyui" / "text-to-image.json"
MODELS = {ProfileName.COMFYUI: ("sd_xl_base_1.0.safetensors",)}
PROFILES = (ProfileName.SDCPP, ProfileName.OPENAI, ProfileName.A1111, ProfileName.COMFYUI)
SDCPP, OPENAI, A1111, COMFYUI = (f"image-{number}" for number, _ in enumerate(PROFILES, 1))
RESUMED = (SDCPP, COMFYUI)
DISPATCHERS = ("dispatcher-1", "dispatcher-2", "dispatcher-3")
PATIENT = {
    "lease_s": 2,
    "retry_base_s": 0.05,
    "retry_cap_s": 0.2,
    "max_attempts": 20,
    "circuit_open_s": 0.5,
    "probe_idle_s": 60,  # what breaks is looked at by itself, and not because its turn has come
}


class Fleet:
    """A GPU of each protocol, and what was submitted to them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.gpus: dict[str, Gpu] = {}
        self.accepted: list[TaskId] = []

    async def submit(self, *backends: str | None) -> list[TaskId]:
        """Submit a task for each; None: for whichever GPU it comes to."""
        named: list[Json] = [{"backend": backend} if backend else {} for backend in backends]
        ids = [await self.cluster.submit(**members) for members in named]
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

    async def begun(self, *names: str) -> int:
        """Count the jobs that these GPUs have begun, by default all."""
        return sum([(await self.gpus[name].stats()).jobs.started for name in names or self.gpus])

    async def more_begun(self, before: int, *names: str) -> None:
        """Wait until another job has begun; that may be over before anybody looks."""

        async def look() -> bool:
            return await self.begun(*names) > before

        await eventually(look, "another job has begun")

    async def hung(self, seconds: float) -> tuple[list[TaskId], list[TaskId]]:
        """Give every GPU a job that it hangs on; the tasks, and those of them that can be found again.

        A request that outlives its dispatcher ends after ``seconds``, since nobody could tell that it has.
        So it is the last to begin.
        """
        await self.script(Fault.HANG, OPENAI, seconds=seconds)
        await self.script(Fault.HANG, A1111, *RESUMED)
        first = [name for name in self.gpus if name != OPENAI]
        hung = dict(zip(first, await self.submit(*first), strict=True))
        await self.at_work(*first)
        resumed = [hung[name] for name in RESUMED]
        await self.attached(resumed)
        [hung[OPENAI]] = await self.submit(OPENAI)
        await self.at_work(OPENAI)
        return list(hung.values()), resumed

    async def crashed(self) -> None:
        async def look() -> bool:
            return all(gpu.lives > 1 for gpu in self.gpus.values())

        await eventually(look, "every GPU has crashed")

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
    cluster = make_cluster(**PATIENT, unknown_run_s=1, balancing_image="round_robin")
    made = await fleet(cluster, step_ms=10.0)
    await begin(made, *DISPATCHERS)
    for mode in (Fault.HTTP500, Fault.OOM, Fault.GARBAGE, Fault.BUSY):
        await made.script(mode, *made.gpus)
    await made.script(Fault.SLOW, *made.gpus, seconds=0.3)
    tasks = await made.submit(*[None] * 32)
    await asyncio.gather(*(cluster.finished(task_id) for task_id in tasks))
    await made.script(Fault.REFUSE, *made.gpus, seconds=0.5)
    tasks += await made.submit(*[None] * 8)

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
    tasks = await made.submit(*made.gpus, *[None] * 12)
    await asyncio.gather(*(cluster.finished(task_id) for task_id in tasks))
    await made.shown("up", *made.gpus)
    tasks += await made.submit(*made.gpus)

    await made.ends_well()

    await made.done(tasks)
    assert [gpu.lives for gpu in made.gpus.values()] == [2] * len(PROFILES)


async def test_a_gpu_that_hangs_gets_nothing_more_until_it_is_free_whoever_gave_up_on_it(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(**PATIENT, stuck_after_s=0.5)
    made = await fleet(cluster, step_ms=10.0)
    await begin(made, *DISPATCHERS)
    await made.script(Fault.HANG, *made.gpus)
    hung = await made.submit(*made.gpus)
    await made.at_work(*made.gpus)
    for task_id in hung:
        _, answer = await cluster.ask("POST", f"/api/v1/tasks/{task_id}/cancel")
        assert answer["outcome"] == "CANCELLED"
    later = await made.submit(*made.gpus, *[None] * 8)
    await made.shown("stuck", *made.gpus)
    assert [(await gpu.stats()).jobs.received for gpu in made.gpus.values()] == [1] * len(PROFILES)
    await made.clear()

    await made.ends_well()

    await made.done(later)


async def test_dispatchers_that_are_killed_at_work_leave_nothing_undone_and_nothing_twice(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(**PATIENT, unknown_run_s=4)
    made = await fleet(cluster, step_ms=20.0)
    dispatchers = await begin(made, *DISPATCHERS)
    hung, resumed = await made.hung(seconds=3)
    for dispatcher in dispatchers:
        dispatcher.kill()
    later = await made.submit(*made.gpus, *[None] * 8)
    others = await begin(made, "dispatcher-4", "dispatcher-5", "dispatcher-6")
    await made.attached(resumed, times=2)
    await made.clear()
    await asyncio.gather(*(cluster.finished(task_id) for task_id in later))
    before = await made.begun()
    later += await made.submit(*[None] * 16)
    await made.more_begun(before)
    others[0].kill()
    await cluster.start("dispatcher-7")

    await made.ends_well()

    await made.done([*hung, *later])


async def test_dispatchers_that_freeze_at_work_and_wake_up_overbook_nothing(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(**PATIENT, unknown_run_s=4)
    made = await fleet(cluster, step_ms=20.0)
    sleepers = await begin(made, *DISPATCHERS)
    hung, resumed = await made.hung(seconds=3)
    for sleeper in sleepers:
        sleeper.freeze()
    later = await made.submit(*made.gpus, *[None] * 8)
    await cluster.start("dispatcher-4", "dispatcher-5")
    await made.attached(resumed, times=2)
    await made.at_work(OPENAI, running=0)
    for sleeper in sleepers:
        sleeper.wake()
    await made.clear()
    later += await made.submit(*[None] * 12)

    await made.ends_well()

    await made.done([*hung, *later])


async def test_an_outage_longer_than_a_lease_takes_no_gpu_from_who_works_on_it(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(**PATIENT, unknown_run_s=1)
    made = await fleet(cluster, step_ms=20.0)
    await begin(made, *DISPATCHERS)
    long = PATIENT["lease_s"] * 1.5
    await made.script(Fault.HANG, OPENAI, A1111, seconds=long)
    await made.script(Fault.HANG, *RESUMED)
    tasks = await made.submit(*made.gpus, *made.gpus, *[None] * 8)
    await made.at_work(*made.gpus)
    cluster.nats.kill()
    await made.at_work(OPENAI, A1111, running=0)
    before = await made.begun(OPENAI, A1111)
    cluster.nats.start()
    await made.more_begun(before, OPENAI, A1111)
    await made.clear()

    await made.ends_well()

    await made.done(tasks)


async def test_a_gpu_of_two_slots_never_has_three_jobs(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(**PATIENT, unknown_run_s=1)
    profiles = (ProfileName.SDCPP, ProfileName.SDCPP)
    made = await fleet(cluster, *profiles, query="?slots=2", step_ms=20.0)
    first, *_ = await begin(made, *DISPATCHERS)
    await made.script(Fault.HANG, *made.gpus)
    tasks = await made.submit(*made.gpus, *made.gpus)
    await made.attached(tasks)
    tasks += await made.submit(*[None] * 12)
    first.freeze()
    await cluster.start("dispatcher-4")
    await made.clear()
    for mode in (Fault.HTTP500, Fault.CRASH):
        await made.script(mode, *made.gpus)
    tasks += await made.submit(*made.gpus)
    await made.crashed()
    first.wake()

    await made.ends_well(slots=2)

    await made.done(tasks)
    assert max([(await gpu.stats()).max_waiting for gpu in made.gpus.values()]) == 2
