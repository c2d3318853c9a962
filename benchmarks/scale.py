"""What a read costs beside a million tasks: each question asked of a small read model and of a large one.

The one rule: both are up at the same time and are asked in turns, so the noise of the machine hits both.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlencode

import msgspec

from benchmarks import grown, history, invented
from benchmarks.client import Connection, get
from benchmarks.grown import Grown
from benchmarks.measure import MILLISECONDS, Figure, Samples, Spread, spread
from benchmarks.rig import Bench, Rig, until
from schemas.ids import TaskId
from services.projector.copies import snapshot_of

SMALL: Final = 1_000
LARGE: Final = 1_000_000
MOST: Final = 1.2
BLOCKS: Final = 40
BLOCK: Final = 25
WARM_UP: Final = 20
IDS: Final = 2_000
TASKS: Final = "/api/v1/tasks"

STATUS: Final = "status by id"
COUNTS: Final = {"queues": "/api/v1/queues", "counts": f"{TASKS}/counts"}
LISTS: Final[dict[str, dict[str, str]]] = {
    "list": {},
    "list, kind and status": {"kind": "image", "status": "FAILED"},
    "list, tag": {"tag": invented.TAGS[1]},
    "list, rare tag": {"tag": invented.RARE_TAG},
    "list, user": {"user": invented.USERS[1]},
    "list, tenant": {"tenant": invented.TENANTS[1]},
    "list, model": {"model": invented.SPEECH_MODELS[0]},
    "list, backend": {"backend": history.IMAGE_BACKENDS[0]},
    "list, error": {"error": history.ERROR},
    "search, common word": {"text": invented.COMMON_WORD},
    "search, rare word": {"text": invented.RARE_WORD},
    "search, two words": {"text": invented.TWO_WORDS},
}
LIMIT: Final = "20"


class Side(NamedTuple):
    """One of the two that are asked."""

    rig: Rig
    grown: Grown
    connection: Connection


async def measure(bench: Bench) -> list[Figure]:
    async with bench.rig(nats_sync="default") as small, bench.rig(nats_sync="default") as large:
        known = [await grown.grow(small, SMALL), await grown.grow(large, bench.sized(LARGE))]
        async with asyncio.TaskGroup() as group:
            for rig in (small, large):
                group.create_task(rig.start("projector", "api", patience_s=grown.PATIENCE_S))
        for rig in (small, large):
            await _indexed(rig)
            await _copied(rig)
        # Not before: an idle connection is closed, and one side may take minutes longer.
        async with small.connection() as one, large.connection() as other:
            sides = Side(small, known[0], one), Side(large, known[1], other)
            return await _figures(bench, *sides)


async def _indexed(rig: Rig) -> None:
    """Wait until prompts can be searched: their index is filled behind the read model."""
    request = _list({"text": "the", "limit": "1"})

    async def answered() -> bool:
        async with rig.connection() as connection:
            return (await connection.ask(request)).status == 200

    async with asyncio.timeout(grown.PATIENCE_S):
        await until(answered)


async def _copied(rig: Rig) -> None:
    """Wait until the projector has made its first copy, which it reads through to its end."""
    copy = snapshot_of(rig.settings.readmodel_path)

    async def there() -> bool:
        return copy.exists()

    async with asyncio.timeout(grown.PATIENCE_S):
        await until(there)


async def _figures(bench: Bench, small: Side, large: Side) -> list[Figure]:
    few, many = await _questions(small), await _questions(large)
    figures = []
    for name in many:
        if name not in few:
            continue
        floor, ours = _asking(small, few[name]), _asking(large, many[name])
        await floor(WARM_UP)
        await ours(WARM_UP)
        floor_runs, our_runs = await bench.in_turns(floor, ours, BLOCKS)
        figures.append(_figure(name, large.grown, spread(our_runs), spread(floor_runs)))
    return figures


def _figure(name: str, grown: Grown, ours: Spread, floor: Spread) -> Figure:
    figure = Figure(
        name=name,
        what=f"of {grown.tasks:,} tasks, {grown.messages:,} messages",
        floor_what=f"the same of {SMALL:,}",
        unit=MILLISECONDS,
        ours=ours,
        floor=floor,
        target=f"p50 at most {MOST:g} times that of {SMALL:,}",
        ratio_target=MOST,
        series="reads of many tasks",
    )
    return figure.judged()


class Ask(Protocol):
    """Take so many samples."""

    def __call__(self, count: int = BLOCK) -> Awaitable[Samples]: ...


def _asking(side: Side, requests: Sequence[bytes]) -> Ask:
    turns = itertools.cycle(requests)

    async def ask(count: int = BLOCK) -> Samples:
        samples = []
        for request in itertools.islice(turns, count):
            answer = await side.connection.ask(request)
            assert answer.status == 200, answer
            samples.append(answer.taken_s * 1000)
        return samples

    return ask


async def _questions(side: Side) -> dict[str, list[bytes]]:
    """Give the requests of each question, those that are refused left out."""
    asked = {STATUS: [get(f"{TASKS}/{task_id}") for task_id in side.grown.scattered(IDS)]}
    asked |= {name: [get(path)] for name, path in COUNTS.items()}
    middle = await _document(side, side.grown.task_id(side.grown.tasks // 2))
    for name, members in LISTS.items():
        first = {**members, "limit": LIMIT}
        asked[name] = [_list(first)]
        if cursor := await _cursor(side, {**members, "submitted_before": middle["submitted_at"]}):
            asked[f"{name}, deep"] = [_list({**first, "cursor": cursor})]
    return {name: requests for name, requests in asked.items() if await _answered(side, name, requests[0])}


async def _answered(side: Side, name: str, request: bytes) -> bool:
    answer = await side.connection.ask(request)
    if answer.status != 200:
        print(f"  {name}: refused with {answer.status}, not measured", flush=True)
    return answer.status == 200


async def _document(side: Side, task_id: TaskId) -> dict[str, Any]:
    answer = await side.connection.ask(get(f"{TASKS}/{task_id}"))
    assert answer.status == 200, answer
    document: dict[str, Any] = msgspec.json.decode(answer.body)  # Any: JSON
    return document


async def _cursor(side: Side, members: Mapping[str, str]) -> str | None:
    """Give where a list goes on in the middle of everything."""
    answer = await side.connection.ask(_list({**members, "limit": "1"}))
    found: str | None = msgspec.json.decode(answer.body).get("next")
    return found


def _list(members: Mapping[str, str]) -> bytes:
    return get(f"{TASKS}?{urlencode(members)}")
