"""GPUs that come, drain, go and announce themselves while tasks run; queues that stand still."""

import asyncio
import signal
from asyncio import subprocess as processes

import pytest

from schemas.ids import TaskId
from services.gpusim.control import Control
from services.gpusim.model import Fault
from tests.acceptance.test_cli import User, line_with, terminal, user
from tests.cluster import Json, eventually, types

__all__ = ["user"]  # the fixture
OTHER = "gpu-2"
TTL = "5"


async def spare(user: User) -> tuple[Control, str]:
    """Start a GPU that nobody knows yet, and give it and its url; no other has its model, flux."""
    gpu = await user.cluster.gpu("SPARE", models=("flux",))
    return gpu, user.cluster.environment()["SPARE"]


async def added(user: User) -> Control:
    """Give another GPU that was added and is up."""
    gpu, url = await spare(user)
    done = await user.run("backends", "add", OTHER, url, "--label", "zone=b")
    assert (done.code, done.text) == (0, f"{OTHER} is on\n"), done.err
    await shown(user, condition="up", models=["flux"])
    return gpu


async def shown(user: User, **members: object) -> Json:
    """Wait until the other GPU is shown with these members."""

    async def look() -> Json | None:
        status, backend = await user.cluster.ask("GET", f"/api/v1/backends/{OTHER}")
        there = status == 200 and {name: backend[name] for name in members} == members
        return backend if there else None

    return await eventually(look, f"{OTHER} is shown as {members}")


async def gone(user: User) -> None:
    async def look() -> bool:
        return (await user.cluster.ask("GET", f"/api/v1/backends/{OTHER}"))[0] == 404

    await eventually(look, f"{OTHER} is gone")


async def hanging_there(user: User, gpu: Control) -> TaskId:
    """Give a task that runs on the other GPU until its faults are cleared."""
    await gpu.script(Fault.HANG)
    task_id = await user.id("--model", "flux")
    await user.cluster.reached(task_id, "RUNNING")
    return task_id


async def ran_once(user: User, task_id: TaskId) -> None:
    document = await user.cluster.finished(task_id)
    assert document["status"] == "DONE"
    assert [attempt["backend"] for attempt in document["attempts"]] == [OTHER]
    assert types(await user.cluster.history(task_id)).count("done") == 1


async def ended(process: processes.Process) -> tuple[int | None, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_a_gpu_that_is_added_works_and_is_shown(user: User) -> None:
    await added(user)
    task_id = await user.id("--model", "flux")
    await ran_once(user, task_id)
    listed = await user.run("backends")
    head, second, first = listed.text.splitlines()
    assert {"CONDITION", "CIRCUIT", "REASON"} <= set(head.split())
    assert first.startswith("image-1 ")
    assert second.split()[:7] == [OTHER, "image", "on", "up", "closed", "0/1", "flux"]
    (backend,) = [b for b in (await user.run("backends", "--json")).json["backends"] if b["name"] == OTHER]
    assert (backend["source"], backend["labels"]) == ("api", {"zone": "b"})
    assert backend["seconds_per_unit"].keys() == {"flux"}
    with terminal(user, "top") as screen:
        await screen.shows(OTHER, "CONDITION", "up", "Ctrl-C")


async def test_what_runs_on_a_gpu_that_is_drained_ends_there_and_nothing_more_begins(user: User) -> None:
    gpu = await added(user)
    running = await hanging_there(user, gpu)
    draining = await user.start("backends", "drain", OTHER, "--wait")
    assert await line_with(draining.stdout, "draining") == f"{OTHER} is draining and runs 1 task\n"
    waiting = await user.id("--model", "flux")
    refused = await user.run("backends", "remove", OTHER)
    assert refused.code == 3
    assert "runs 1 task; drain it first" in refused.err
    await gpu.clear()
    assert await ended(draining) == (0, f"{OTHER} runs nothing any more\n", "")
    await ran_once(user, running)
    # Only what is not drained works meanwhile; switched on again, it takes up what has waited.
    await user.done()
    assert (await user.cluster.document(waiting))["status"] == "QUEUED"
    assert (await user.run("backends", "on", OTHER)).text.startswith(f"{OTHER} is on")
    await ran_once(user, waiting)


async def test_a_gpu_that_is_removed_stays_so_and_loses_no_task(user: User) -> None:
    gpu = await added(user)
    tasks = [await user.id("--model", "flux") for _ in range(3)]
    drained = await user.run("backends", "drain", OTHER, "--wait", "--json")
    assert (drained.code, drained.json["wanted"], drained.json["running"]) == (0, "draining", [])
    removed = await user.run("backends", "remove", OTHER)
    assert (removed.code, removed.text) == (0, f"{OTHER} is removed\n")
    await gone(user)
    await user.cluster.start("init")
    await gone(user)
    url = user.cluster.environment()["SPARE"]
    again = await user.run("backends", "add", OTHER, url, "--json")
    assert (again.code, again.json["name"]) == (0, OTHER)
    for task_id in tasks:
        await ran_once(user, task_id)
    assert (await gpu.stats()).max_waiting == 1


async def test_a_gpu_is_changed_by_what_is_named(user: User) -> None:
    _, url = await spare(user)
    await user.run("backends", "add", OTHER, url, "--label", "zone=b", "--label", "rack=4")
    changed = await user.run(
        *("backends", "set", OTHER, "--weight", "0.5", "--slots", "2", "--models", "flux,big=flux"),
        *("--label", "rack=", "--label", "room=1", "--json"),
    )
    assert changed.code == 0, changed.err
    assert (changed.json["weight"], changed.json["slots"]) == (0.5, 2)
    assert (changed.json["models"], changed.json["labels"]) == (["flux", "big"], {"zone": "b", "room": "1"})
    assert (await user.run("backends", "off", OTHER)).text == f"{OTHER} is off\n"
    unknown = await user.run("submit", "image", "fox", "--model", "flux")
    assert (unknown.code, "unknown_model" in unknown.err) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("add", "image-1", "http://gpu"), 3, "backend_exists"),
        (("add", "GPU", "http://gpu"), 3, "member name"),
        (("add", "gpu", "gpu:1234"), 3, "member url"),
        (("add", "gpu", "http://gpu", "--protocol", "telepathy"), 3, "protocol is one of sdcpp"),
        (("add", "gpu", "http://gpu", "--label", "zone"), 2, "NAME=VALUE"),
        (("add", "gpu", "http://gpu", "--workflow", "nowhere.json"), 2, "nowhere.json"),
        (("announce", "image-1", "http://gpu"), 3, "backend_exists"),
        (("announce", "gpu", "http://gpu", "--ttl", "1"), 3, "member ttl_s"),
        (("set", "image-1"), 2, "say what to change"),
        (("set", "image-1", "--slots", "0"), 3, "member slots"),
        (("remove", "image-1"), 3, "drain it first"),
        (("drain", "nobody", "--wait"), 3, "allowed: image-1"),
    ],
)
async def test_what_is_refused_is_told_in_one_line(
    user: User, arguments: tuple[str, ...], code: int, told: str
) -> None:
    refused = await user.run("backends", *arguments)
    assert (refused.code, refused.out) == (code, b"")
    assert told in refused.err
    assert refused.err.count("\n") == 1


async def test_a_gpu_is_there_for_as_long_as_it_announces_itself(user: User) -> None:
    gpu, url = await spare(user)
    announcing = await user.start("backends", "announce", OTHER, url, "--ttl", TTL)
    assert await line_with(announcing.stdout, OTHER) == f"{OTHER} is on\n"
    first = (await shown(user, source="announced", condition="up"))["alive_until"]
    running = await hanging_there(user, gpu)

    async def renewed() -> bool:
        return bool((await shown(user))["alive_until"] > first)

    await eventually(renewed, "it has said again that it lives")
    announcing.send_signal(signal.SIGTERM)
    await shown(user, wanted="draining", draining=True)
    assert announcing.returncode is None
    await gpu.clear()
    code, out, err = await ended(announcing)
    assert (code, out) == (0, f"{OTHER} is removed\n")
    assert f"{OTHER} is drained and then removed" in err
    await gone(user)
    await ran_once(user, running)


async def test_a_second_ctrl_c_ends_an_announcement_at_once(user: User) -> None:
    gpu, url = await spare(user)
    announcing = await user.start("backends", "announce", OTHER, url)
    await line_with(announcing.stdout, OTHER)
    await shown(user, condition="up")
    await hanging_there(user, gpu)
    announcing.send_signal(signal.SIGINT)
    await line_with(announcing.stderr, "once more ends at once")
    announcing.send_signal(signal.SIGINT)
    assert (await ended(announcing))[0] == 130
    await gpu.clear()


async def test_a_gpu_that_falls_silent_is_taken_out_of_use_once_its_task_has_ended(user: User) -> None:
    gpu, url = await spare(user)
    announcing = await user.start("backends", "announce", OTHER, url, "--ttl", TTL)
    await line_with(announcing.stdout, OTHER)
    await shown(user, condition="up")
    running = await hanging_there(user, gpu)
    announcing.kill()
    await ended(announcing)
    await shown(user, wanted="draining", draining=True)
    await gpu.clear()
    await ran_once(user, running)
    await gone(user)


async def test_an_announcement_outlives_the_api_and_what_operators_want_outlives_it(user: User) -> None:
    _, url = await spare(user)
    announcing = await user.start("backends", "announce", OTHER, url, "--ttl", TTL)
    await line_with(announcing.stdout, "is on")
    (api,) = [one for one in user.cluster._processes if one.name == "api"]  # noqa: SLF001 - the one to kill
    api.kill()
    await line_with(announcing.stderr, "cannot reach")
    await user.cluster.start("api")
    await line_with(announcing.stderr, "announced again")
    await user.run("backends", "off", OTHER)
    assert await line_with(announcing.stdout, OTHER) == f"{OTHER} is off\n"
    await shown(user, wanted="off")
    announcing.send_signal(signal.SIGTERM)
    assert (await ended(announcing))[0] == 0
    await gone(user)


async def test_a_queue_that_is_paused_accepts_and_starts_nothing_until_it_is_resumed(user: User) -> None:
    gpu = await added(user)
    running = await hanging_there(user, gpu)
    paused = await user.run("pause", "image", "--model", "flux", "--reason", "new weights")
    assert paused.text.startswith("image flux is paused since ")
    assert paused.text.endswith(": new weights\n")
    waiting = await user.id("--model", "flux")
    await gpu.clear()
    await ran_once(user, running)
    await user.done()  # others are served meanwhile
    assert (await user.cluster.document(waiting))["status"] == "QUEUED"
    listed = (await user.run("queues")).text.splitlines()
    assert listed[0].endswith("PAUSED")
    assert next(line for line in listed if "new weights" in line).split()[:2] == ["image", "flux"]
    whole = await user.run("pause", "image", "--json")
    assert [one["model"] for one in whole.json["pauses"]] == [None, "flux"]
    assert (await user.run("resume", "image")).text.startswith("image flux is paused")
    assert (await user.run("resume", "image", "--model", "flux")).text == "image is not paused\n"
    await ran_once(user, waiting)
    refused = await user.run("pause", "video")
    assert (refused.code, "unknown_kind" in refused.err) == (3, True)
