"""Whom an event is for: each listener once, found by what its filter says."""

from schemas import event_filters
from schemas.event_filters import Said
from schemas.ids import BatchId
from services.api.listeners import Client, Listeners, Topic
from tests.builders import OTHER, TASK
from tests.unit.test_event_filters import DONE

BATCH = BatchId(OTHER)


def topic(**query: str) -> Topic:
    return Topic(event_filters.parse(query))


async def test_an_event_finds_those_whom_it_is_for_and_nobody_else() -> None:
    listeners = Listeners()
    topics = {
        "all": topic(),
        "user": topic(user="ada"),
        "other user": topic(user="bob"),
        "user and kind": topic(user="ada", kind="speech"),
        "batch": Topic(event_filters.parse({"batch": BATCH}), batch=BATCH),
        "kind": topic(kind="image"),
        "tag": topic(tag="zoo"),
        "task": Topic(task=TASK),
    }
    clients = {name: Client(1000) for name in topics}
    for name, what in topics.items():
        listeners.add(what, clients[name])

    found = [client for group in listeners.wide(DONE, lambda: Said(("zoo",))) for client in group]

    assert len(found) == len(set(found))
    assert set(found) == {clients[name] for name in ("all", "user", "batch", "kind", "tag")}
    assert set(listeners.of_task(TASK)) == {clients["task"]}
    assert set(listeners.of_batch(BATCH)) == {clients["batch"]}
    for name, what in topics.items():
        listeners.drop(what, clients[name])
        listeners.drop(what, clients[name])
    assert not listeners.any_wide
    assert not listeners.of_task(TASK)
    assert not listeners.of_batch(BATCH)


async def test_equal_filters_are_held_against_an_event_once() -> None:
    listeners = Listeners()
    for _ in range(5):
        listeners.add(topic(tag="zoo"), Client(1000))
    asked = []

    def ask() -> Said:
        asked.append(1)
        return Said(("zoo",))

    assert [len(group) for group in listeners.wide(DONE, ask)] == [5]
    assert len(asked) == 1
