"""Acting on many tasks from the command line: filters, dead letters, replays, redrives, cancels."""

import contextlib

from schemas.ids import TaskId, parse_task_id
from services.cli import show
from services.gpusim.model import Fault
from tests.acceptance.test_cli import UNKNOWN, Ran, Terminal, User, user
from tests.cluster import eventually

__all__ = ["user"]  # a fixture


def ids(ran: Ran) -> list[TaskId]:
    assert ran.code == 0, ran.err
    return [parse_task_id(line) for line in ran.text.split()]


async def dead(user: User, *flags: str) -> TaskId:
    """Give a task that has failed."""
    await user.cluster.gpus["IMAGE_GEN_URL_1"].script(Fault.HTTP500)
    task_id = await user.id("--max-attempts", "1", *flags)
    assert (await user.cluster.finished(task_id))["status"] == "FAILED"
    return task_id


async def test_dead_letters_are_listed_with_their_reason_and_made_again(user: User) -> None:
    failed = await dead(user, "--tag", "zoo", "--user", "ada")
    done = await user.done()

    listed = await user.run("dead")
    assert listed.code == 0
    head, row = listed.text.splitlines()
    assert head.split() == ["ID", "KIND", "ENDED", "BACKEND", "TRIES", "ERROR", "WHY"]
    assert row.split()[:2] == [failed, "image"]
    assert "image-1" in row
    assert (await user.run("dead", "--user", "bob")).text.splitlines()[1:] == []
    assert [task["task_id"] for task in (await user.run("dead", "--json")).json["tasks"]] == [failed]

    more = ("--set", "max_attempts=3", "--set", "steps=5", "--set", "user=null")
    (again,) = ids(await user.run("redrive", "--tag", "zoo", *more))
    document = await user.cluster.finished(again)
    assert (document["status"], document["origin"], document["user"]) == ("DONE", failed, None)
    assert document["request"]["steps"] == 5
    repeated = await user.run("redrive", "--tag", "zoo")
    assert (ids(repeated), "0 tasks redriven" in repeated.err) == ([], True)
    assert (await user.cluster.document(done))["status"] == "DONE"


async def test_a_task_is_replayed_with_another_prompt_and_awaited(user: User) -> None:
    origin = await user.done()
    waited = await user.run("replay", origin, "--prompt", "an owl", "--backend", "image-1", "--wait")
    assert waited.code == 0, waited.err
    assert waited.text.startswith(user.cluster.url)
    (task_id,) = ids(await user.run("replay", origin, "--set", 'tags=["night"]'))
    document = await user.cluster.finished(task_id)
    assert (document["tags"], document["request"]["prompt"]) == (["night"], "a red fox")
    (other,) = ids(await user.run("redrive", origin))
    assert (await user.cluster.document(other))["origin"] == origin


async def test_tasks_are_listed_and_cancelled_by_a_filter(user: User) -> None:
    kept = await user.id("--delay-s", "3600", "--tag", "farm")
    zoo = [await user.id("--delay-s", "3600", "--tag", "zoo") for _ in range(3)]

    async def all_listed() -> bool:
        listed = await user.run("tasks", "--tag", "zoo", "--status", "scheduled", "--json")
        return [task["task_id"] for task in listed.json["tasks"]] == zoo[::-1]

    await eventually(all_listed, "the list shows them")
    cancelled = await user.run("cancel", "--tag", "zoo", "--reason", "closed")
    assert cancelled.code == 0, cancelled.err
    assert sorted(cancelled.text.splitlines()) == sorted(f"{task_id} CANCELLED" for task_id in zoo)
    assert "3 tasks cancelled" in cancelled.err
    assert (await user.cluster.document(kept))["status"] == "SCHEDULED"
    assert (await user.run("cancel", kept)).text == f"{kept} CANCELLED\n"


async def test_a_slip_acts_on_nothing_and_says_why(user: User) -> None:
    for command in ("cancel", "redrive"):
        for flags in ((), (UNKNOWN, "--tag", "zoo"), ("--all", "--tag", "zoo"), (UNKNOWN, "--all")):
            ran = await user.run(command, *flags)
            assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, b"", 1), (command, flags)
            assert "one of the three" in ran.err
    cases = (
        (("cancel", "--status", "DONE"), 3, "status is one of SCHEDULED"),
        (("redrive", "--status", "DONE"), 3, "status is one of FAILED"),
        (("redrive", "--all", "--set", "steps"), 2, "NAME=VALUE"),
        (("redrive", "--all", "--set", "colour=red"), 0, "0 tasks redriven"),
        (("replay", UNKNOWN), 3, "there is no task"),
        (("replay", UNKNOWN, "--set", "max_attempts=0"), 3, "max_attempts"),
        (("tasks", "--submitted-after", "today"), 3, "a time with its zone"),
    )
    for arguments, code, part in cases:
        ran = await user.run(*arguments)
        assert (ran.code, len(ran.err.splitlines())) == (code, 1), (arguments, ran.err)
        assert part in ran.err


async def test_a_person_is_asked_before_many_are_cancelled(user: User) -> None:
    waiting = [await user.id("--delay-s", "3600", "--tag", "zoo") for _ in range(2)]

    async def projected() -> bool:
        return len((await user.run("tasks", "--tag", "zoo", "--json")).json["tasks"]) == len(waiting)

    await eventually(projected, "the list shows them")
    for answer, statuses in (("n", {"SCHEDULED"}), ("y", {"CANCELLED"})):
        with contextlib.closing(Terminal(user, "cancel", "--tag", "zoo")) as terminal:
            await terminal.shows("cancel 2 tasks? [y/N]")
            terminal.types(f"{answer}\n")
            assert await terminal.ended() == 0
        assert {(await user.cluster.document(task_id))["status"] for task_id in waiting} == statuses


async def test_the_past_of_a_task_and_of_the_queues_is_shown(user: User) -> None:
    task_id = await user.done()
    whole = await user.run("history", task_id)
    assert whole.code == 0, whole.err
    events, attempts = whole.text.split("\n\n")
    started = next(line.split()[0] for line in events.splitlines() if "task.started" in line)
    assert attempts.splitlines()[0].split() == ["ATTEMPT", "BACKEND", "WAITED", "RAN", "OUTCOME"]
    assert attempts.split()[5:7] == ["1", "image-1"]
    assert attempts.split()[-1] == "done"

    then = await user.run("history", task_id, "--at-seq", started)
    assert (then.code, "task.done" in then.text) == (0, False), then.err
    assert then.text.endswith(f"as of then it is RUNNING, since sequence {started}\n")
    shown = await user.run("get", task_id, "--at-seq", started, "--json")
    assert (shown.json["status"], shown.json["sequence"]) == ("RUNNING", int(started))
    queues = await user.run("queues", "--at-seq", started)
    assert queues.text.splitlines()[0].split() == list(show.PAST_QUEUES)
    assert queues.text.splitlines()[1].split() == ["image", "any", "0", "0", "0", "1"]
    assert (await user.run("queues", "--at", "2020-01-01T00:00:00Z")).text.splitlines()[1:] == []
    refused = await user.run("get", task_id, "--at", "yesterday")
    assert (refused.code, "member at" in refused.err) == (3, True)


async def test_what_is_erased_is_no_longer_known_and_what_has_not_ended_stays(user: User) -> None:
    first, second, waiting = await user.done(), await user.done(), await user.id("--delay-s", "3600")
    with contextlib.closing(Terminal(user, "erase", first, second)) as terminal:
        await terminal.shows("erase 2 tasks for good? [y/N]")
        terminal.types("n\n")
        assert await terminal.ended() == 0
    assert (await user.cluster.document(first))["request"]["prompt"] == "a red fox"

    erased = await user.run("erase", first, second, "--yes")
    assert (erased.code, erased.text) == (0, f"{first} ERASED\n{second} ERASED\n"), erased.err
    again = await user.run("erase", first, waiting, "--json")
    assert (again.code, again.json["outcome"]) == (3, "ALREADY_ERASED")
    assert "not_finished" in again.err

    async def gone() -> bool:
        return (await user.cluster.document(first))["request"]["prompt"] is None

    await eventually(gone, "it is erased for readers too")
    assert "a red fox" not in (await user.run("history", first, "--json")).text
    fetched = await user.run("get", first, "-o", "fox.png")
    assert (fetched.code, "expired_artifact" in fetched.err) == (3, True)
