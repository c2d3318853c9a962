"""People who watch tasks come and go, and who check what they are told.

The one rule: everybody checks against the JSON history, by sequence: nothing is missing, nothing comes
twice, and no document is older than an event that its reader has seen already.
"""

import array
import asyncio
import bisect
import re
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

import aiohttp
import msgspec
from msgspec import Struct

from benchmarks.rig import Rig
from schemas.ids import TaskId
from services.gpusim.model import chance

EVENTS: Final = "/api/v1/events"
STAYS_S: Final = (5.0, 30.0)
IS_AWAY_S: Final = (0.0, 5.0)
LOOKS_EACH: Final = 20
"""Of so many events one is compared with its task's document."""
FOLLOWED: Final = 50
POLLED: Final = 20
"""Of so many tasks one is followed by its own stream, and one polled."""
PATIENCE_S: Final = 120.0
_LOOK_S: Final = 0.5
_JSON: Final = {"Accept": "application/json"}
_FRAME: Final = re.compile(rb'^id: (\d+)\nevent: (\S+)\ndata: .*?"task_id":"([^"]+)"', re.DOTALL)
_FINAL: Final = frozenset({"task.done", "task.failed", "task.cancelled", "task.expired"})
_BROKEN: Final = (aiohttp.ClientError, asyncio.IncompleteReadError, ConnectionError, TimeoutError)


class Told(NamedTuple):
    sequence: int
    kind: str
    task_id: TaskId


class _Sequence(Struct, frozen=True):
    sequence: int


class _Page(Struct, frozen=True):
    events: list[_Sequence]
    next: int | None


class _Document(Struct, frozen=True):
    status: str
    sequence: int


_decode_page: Final = msgspec.json.Decoder(_Page).decode
_decode_document: Final = msgspec.json.Decoder(_Document).decode


class Onlookers:
    """Everybody who watches one rig. ``seen`` counts what they saw, by what it was."""

    def __init__(self, rig: Rig, group: asyncio.TaskGroup) -> None:
        self.seen: Counter[str] = Counter()
        self.leaving = asyncio.Event()
        self._rig = rig
        self._group = group
        self._ledger = array.array("q")
        """Every sequence of the history so far, in order."""

    async def keep_ledger(self) -> None:
        """Read the whole history as it grows, until cancelled."""
        while True:
            page = await self._history(EVENTS, self._ledger[-1] if self._ledger else 0)
            self._ledger.extend(event.sequence for event in page.events)
            if page.next is None:
                await asyncio.sleep(_LOOK_S)

    async def come_and_go(self, number: int) -> None:
        """Watch all events, leave, come back where it was, and check each stay, until everybody leaves."""
        after: int | None = None
        stay = 0
        while not self.leaving.is_set():
            stay += 1
            got: list[int] = []
            try:
                async with asyncio.timeout(_between(STAYS_S, number, stay, "stays")):
                    await self._watch(EVENTS, after, got)
                self.seen["ended too early"] += 1
            except TimeoutError:
                self.seen["stays"] += 1
            except _BROKEN:
                self.seen["streams broken off"] += 1
            if got:
                await self._check_with_ledger(got, after if after is not None else got[0] - 1)
                after = got[-1]
            await asyncio.sleep(_between(IS_AWAY_S, number, stay, "away"))

    async def _watch(self, path: str, after: int | None, got: list[int]) -> None:
        """Read a stream to its end; what has come so far stands in ``got``."""
        async with aclosing(self._frames(path, after)) as frames:
            async for told in frames:
                got.append(told.sequence)
                if told.sequence % LOOKS_EACH == 0:
                    self._group.create_task(self._look(told))
                    await asyncio.sleep(0)  # a full buffer would keep everybody else waiting

    async def follow(self, task_id: TaskId) -> None:
        """Watch one task by its own stream to its end, coming back where it breaks off."""
        path, got = f"/api/v1/tasks/{task_id}/events", list[int]()
        ended = False
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not ended:
                    async with aclosing(self._frames(path, got[-1] if got else 0)) as frames:
                        async for told in frames:
                            got.append(told.sequence)
                            ended = told.kind in _FINAL
        except _BROKEN:
            self.seen["own streams broken off"] += 1
            return
        page = await self._history(path, 0)
        self.seen["own streams"] += 1
        self._compare(got, [event.sequence for event in page.events])

    async def poll(self, task_id: TaskId) -> None:
        """Ask again and again until the task has ended."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while (await self._document(task_id, "?wait=20")).status not in ("DONE", "FAILED"):
                    self.seen["polls"] += 1
        except (*_BROKEN, msgspec.ValidationError):
            self.seen["polls that failed"] += 1

    async def _look(self, told: Told) -> None:
        try:
            document = await self._document(told.task_id)
        except (*_BROKEN, msgspec.ValidationError):
            self.seen["looks that failed"] += 1
            return
        self.seen["looks"] += 1
        self.seen["stale"] += document.sequence < told.sequence

    async def _check_with_ledger(self, got: Sequence[int], after: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not self._ledger or self._ledger[-1] < got[-1]:  # noqa: ASYNC110 - it is read page by page
                await asyncio.sleep(_LOOK_S)
        first = bisect.bisect_right(self._ledger, after)
        last = bisect.bisect_right(self._ledger, got[-1])
        self._compare(got, self._ledger[first:last])

    def _compare(self, got: Sequence[int], wanted: Sequence[int]) -> None:
        self.seen["events"] += len(got)
        self.seen["gaps"] += len(set(wanted) - set(got))
        self.seen["repeats"] += len(got) - len(set(got)) + len(set(got) - set(wanted))
        self.seen["out of order"] += list(got) != sorted(got)

    async def _frames(self, path: str, after: int | None) -> AsyncGenerator[Told, None]:
        headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": str(after)})
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._rig.http.get(
            f"{self._rig.url}{path}", headers=headers, timeout=timeout, read_bufsize=1 << 20
        ) as answer:
            answer.raise_for_status()
            while frame := await answer.content.readuntil(b"\n\n"):
                if match := _FRAME.match(frame):
                    yield Told(int(match[1]), match[2].decode(), TaskId(match[3].decode()))

    async def _history(self, path: str, after: int) -> _Page:
        url = f"{self._rig.url}{path}?last_event_id={after}"
        async with self._rig.http.get(url, headers=_JSON) as answer:
            return _decode_page(await answer.read())

    async def _document(self, task_id: TaskId, query: str = "") -> _Document:
        async with self._rig.http.get(f"{self._rig.url}/api/v1/tasks/{task_id}{query}") as answer:
            return _decode_document(await answer.read())


def _between(span: tuple[float, float], *draw: int | str) -> float:
    least, most = span
    return least + (most - least) * chance(1, *draw)
