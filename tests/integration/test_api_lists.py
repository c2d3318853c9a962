"""Lists of tasks: pages both ways, texts, counts."""

import contextlib
import re
import sqlite3
from pathlib import Path

from schemas import textindex
from schemas.errors import Code
from schemas.ids import TaskId
from tests.api import Rig, eventually, running, settings_for
from tests.nats import NatsServer

TASKS = "/api/v1/tasks"


def ids(page: dict[str, list[dict[str, str]]]) -> list[str]:
    return [task["task_id"] for task in page["tasks"]]


async def projected(rig: Rig, *tasks: TaskId) -> None:
    async def listed() -> bool:
        return set(tasks) <= set(ids((await rig.ask("GET", f"{TASKS}?limit=200")).json))

    await eventually(listed)


async def found(rig: Rig, **query: str) -> list[str]:
    reply = await rig.ask("GET", TASKS, params=query)
    assert reply.status == 200, reply.body
    return ids(reply.json)


async def test_pages_are_the_same_both_ways_while_tasks_arrive(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        made = [await rig.submit(tags=["zoo"]) for _ in range(7)]
        await projected(rig, *made)
        newest_first = made[::-1]

        first = (await rig.ask("GET", f"{TASKS}?tag=zoo&limit=3")).json
        assert (ids(first), first["prev"]) == (newest_first[:3], None)
        later = await rig.submit(tags=["zoo"])
        await projected(rig, later)
        second = (await rig.ask("GET", f"{TASKS}?tag=zoo&limit=3&cursor={first['next']}")).json
        assert ids(second) == newest_first[3:6]
        last = (await rig.ask("GET", f"{TASKS}?tag=zoo&limit=3&cursor={second['next']}")).json
        assert (ids(last), last["next"]) == (newest_first[6:], None)

        back = (await rig.ask("GET", f"{TASKS}?tag=zoo&limit=3&cursor={last['prev']}")).json
        assert ids(back) == ids(second)
        assert back["next"] is not None
        back = (await rig.ask("GET", f"{TASKS}?tag=zoo&limit=3&cursor={back['prev']}")).json
        assert ids(back) == ids(first)
        newer = (await rig.ask("GET", f"{TASKS}?tag=zoo&limit=3&cursor={back['prev']}")).json
        assert (ids(newer), newer["prev"]) == ([later], None)
        nothing = (await rig.ask("GET", f"{TASKS}?tag=none&cursor={first['next']}")).json
        assert nothing == {"tasks": [], "next": None, "prev": None}


async def test_links_have_the_whole_filter_in_them(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        made = [await rig.submit(user="ada & <bob>") for _ in range(3)]
        await projected(rig, *made)

        reply = await rig.ask("GET", TASKS, params={"user": "ada & <bob>", "limit": "1"})
        seen = ids(reply.json)
        while link := re.search(r'<([^>]*)>; rel="next"', reply.headers["link"]):
            reply = await rig.ask("GET", link[1])
            seen += ids(reply.json)
        assert seen == made[::-1]
        assert "link" not in (await rig.ask("GET", f"{TASKS}?user=nobody")).headers
        for cursor in ("x", "LQ==", "OTk5OTk5OTk5OTk5OTk5OTk5OTk="):
            refused = await rig.ask("GET", f"{TASKS}?cursor={cursor}")
            assert refused.refusal() == (422, Code.OUT_OF_RANGE, "cursor")


async def test_tasks_are_found_by_the_words_of_their_prompts(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        fox = await rig.submit(prompt="A red FOX in the Schnée", tags=["zoo"])
        owl = await rig.submit(prompt="an owl, red as a foxglove; 雪の中の狐", user="ada")
        await projected(rig, fox, owl)

        assert await found(rig, text="red") == [owl, fox]
        assert await found(rig, text="schnee fox") == [fox]
        assert await found(rig, text="fox*") == [owl, fox]
        assert await found(rig, text='"fox red"') == []
        assert await found(rig, text="雪の") == [owl]
        assert await found(rig, text="red", user="ada") == [owl]
        assert await found(rig, text="red", tag="zoo", status="QUEUED") == [fox]
        assert await found(rig, text="red", status="DONE") == []
        assert (await rig.ask("GET", f"{TASKS}?text=-")).refusal() == (422, Code.OUT_OF_RANGE, "text")
        # Whoever searches after a list has shown a task finds it.
        for _ in range(5):
            newest = await rig.submit(prompt="a lonely axolotl")
            await projected(rig, newest)
            assert newest in await found(rig, text="axolotl")

        reply = await rig.ask("POST", f"{TASKS}/cancel", json={"text": "axolotl"})
        assert reply.json["cancelled"] == 5


async def test_a_text_index_that_is_lost_or_spoilt_is_made_anew(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path)
    async with running(settings) as rig:
        fox = await rig.submit(prompt="a red fox")
        await projected(rig, fox)
        assert await found(rig, text="fox") == [fox]
        model = settings.readmodel_path.resolve()
        file = model.with_name(model.name + textindex.SUFFIX)

        async def back() -> bool:
            reply = await rig.ask("GET", TASKS, params={"text": "fox"})
            if reply.status == 503:
                assert reply.refusal()[1] == Code.READ_MODEL_AWAY
                assert reply.headers["retry-after"]
                return False
            return file.exists() and ids(reply.json) == [fox]

        file.unlink()
        await eventually(back)
        with file.open("r+b") as opened:
            opened.truncate(100)
        file.with_name(file.name + "-wal").unlink()
        await eventually(back)
        assert await found(rig) == [fox]
        assert model == settings.readmodel_path.resolve()


async def test_nothing_is_left_of_a_text_that_is_forgotten(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = settings_for(nats_server, tmp_path)
    async with running(settings) as rig:
        made = [
            await rig.submit(prompt=f"a fox {word}")
            for word in ("xylophonist", "quarterdeck", "zeppelinry")
        ]
        await projected(rig, *made)
        assert await found(rig, text="quarterdeck fox") == [made[1]]
        with (
            contextlib.closing(sqlite3.connect(settings.readmodel_path)) as database,
            database,
        ):  # as the fold does it, which is held up
            database.execute("PRAGMA wal_autocheckpoint = 0")
            database.execute("INSERT INTO forgotten SELECT number FROM tasks WHERE task_id = ?", (made[1],))
        assert await found(rig, text="quarterdeck") == []

        async def forgotten() -> bool:
            with contextlib.closing(sqlite3.connect(settings.readmodel_path)) as database:
                return not database.execute("SELECT 1 FROM forgotten").fetchall()

        await eventually(forgotten)
        model = settings.readmodel_path.resolve()
        for file in model.parent.glob(f"{model.name}{textindex.SUFFIX}*"):
            assert b"quarterdeck" not in file.read_bytes()
        assert await found(rig, text="fox") == [made[2], made[0]]


async def test_tasks_are_counted_by_kind_and_status(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        empty = (await rig.ask("GET", f"{TASKS}/counts")).json
        assert ([row["kind"] for row in empty["counts"]], empty["sequence"]) == (["image", "speech"], 0)
        first, second = await rig.submit(), await rig.submit()
        await rig.start(first)
        last = await rig.fail(second)

        async def counted() -> bool:
            reply = await rig.ask("GET", f"{TASKS}/counts", params={"kind": "image"})
            [row] = reply.json["counts"]
            found = (row["running"], row["failed"], reply.json["sequence"])
            return found == (1, 1, last)

        await eventually(counted)
        others = (await rig.ask("GET", f"{TASKS}/counts?tenant=acme")).json["counts"]
        assert [(row["queued"], row["failed"]) for row in others] == [(0, 0), (0, 0)]
        assert (await rig.ask("GET", f"{TASKS}/counts?kind=x")).refusal() == (
            422,
            Code.OUT_OF_RANGE,
            "kind",
        )
        assert (await rig.ask("POST", f"{TASKS}/counts")).refusal() == (405, Code.METHOD_NOT_ALLOWED, None)
