"""Streams of events: replayed, live, resumed, and never ahead of a GET."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from schemas.events import Progress
from schemas.ids import TaskId
from schemas.subjects import progress_subject
from tests.api import Rig, eventually, running, running_api, settings_for
from tests.nats import NatsServer

TASKS = "/api/v1/tasks"


class Frame(Struct):
    id: int | None
    event: str
    data: Any  # Any: JSON


class Listener:
    """Reads frames of an open stream; ``ended`` once the server has ended it properly."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.raw = b""
        self.ended = False

    async def frames(self) -> AsyncIterator[Frame]:
        async for line in self.lines():
            fields = dict(part.split(b": ", 1) for part in line.split(b"\n") if b": " in part)
            if b"data" in fields:
                number = int(fields[b"id"]) if b"id" in fields else None
                yield Frame(number, fields[b"event"].decode(), msgspec.json.decode(fields[b"data"]))

    async def lines(self) -> AsyncIterator[bytes]:
        async for piece in self.answer.content.iter_any():
            self.raw += piece
            *whole, self.raw = self.raw.split(b"\n\n")
            for block in whole:
                yield block
        self.ended = True


@asynccontextmanager
async def listening(rig: Rig, path: str, after: int | None = None) -> AsyncIterator[Listener]:
    headers = {} if after is None else {"last-event-id": str(after)}
    async with rig.session.get(rig.url + path, headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Listener(answer)


async def types(rig: Rig, path: str, after: int | None = None) -> list[str]:
    """Read a stream to its end."""
    async with listening(rig, path, after) as listener, asyncio.timeout(30):
        return [frame.event async for frame in listener.frames()]


async def test_a_task_tells_its_whole_story_and_ends(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        story = asyncio.ensure_future(types(rig, f"{TASKS}/{task_id}/events"))
        await rig.start(task_id)
        await rig.finish(task_id)
        expected = ["task.submitted", "task.started", "task.done"]
        assert await story == expected
        assert await types(rig, f"{TASKS}/{task_id}/events") == expected


async def test_a_finished_story_is_resumed_and_then_over(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        path = f"{TASKS}/{(task_id := await rig.submit())}/events"
        started = await rig.start(task_id)
        await rig.fail(task_id)
        last = (await rig.ask("GET", f"{TASKS}/{task_id}?wait=30")).json["sequence"]
        assert await types(rig, path, started) == ["task.failed"]
        assert (await rig.ask("GET", path, headers={"last-event-id": str(last)})).status == 204
        assert (await rig.ask("GET", f"{path}?last_event_id={last}")).status == 204


async def test_the_history_is_the_same_as_json(nats_server: NatsServer, tmp_path: Path) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        await rig.start(task_id)
        ended = await rig.fail(task_id)
        as_json = {"accept": "application/json", "taskfold-sequence": str(ended)}
        history = (await rig.ask("GET", f"{TASKS}/{task_id}/events", headers=as_json)).json
        async with listening(rig, f"{TASKS}/{task_id}/events") as listener:
            streamed = [frame.data async for frame in listener.frames()]
        assert history == {"events": streamed, "next": None}
        everything = (await rig.ask("GET", "/api/v1/events", headers=as_json)).json
        assert everything["events"] == streamed


async def test_a_task_that_is_not_projected_yet_can_be_followed(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        for number in range(20):
            task_id = await rig.submit(prompt=str(number))
            async with listening(rig, f"{TASKS}/{task_id}/events") as listener:
                assert (await anext(listener.frames())).event == "task.submitted"


async def test_progress_is_shown_live_and_to_who_comes_late(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()
        await rig.start(task_id)
        async with listening(rig, f"{TASKS}/{task_id}/events") as early:
            frames = early.frames()
            assert [(await anext(frames)).event for _ in range(2)] == ["task.submitted", "task.started"]
            body = msgspec.json.encode(Progress(attempt=1, fraction=0.25))
            await rig.bus.publish(progress_subject(task_id), body, {})
            live = await anext(frames)
            assert (live.id, live.event) == (None, "task.progress")
            assert live.data["data"]["fraction"] == 0.25
            async with listening(rig, f"{TASKS}/{task_id}/events") as late:
                seen = [frame async for frame, _ in _first(late.frames(), 3)]
                assert [frame.event for frame in seen] == [
                    "task.submitted",
                    "task.started",
                    "task.progress",
                ]


async def _first(frames: AsyncIterator[Frame], count: int) -> AsyncIterator[tuple[Frame, int]]:
    for number in range(count):
        yield await anext(frames), number


class Writer:
    """Makes and starts tasks for a while; ``last`` is the sequence of its last event."""

    def __init__(self) -> None:
        self.last = 0
        self.done = False

    async def write(self, rig: Rig) -> None:
        for number in range(30):
            ids = await asyncio.gather(*(rig.submit(prompt=f"{number}-{n}") for n in range(10)))
            self.last = max(await asyncio.gather(*(rig.start(task_id) for task_id in ids)))
        self.done = True


class Wanderer:
    """Follows everything, leaving and coming back every few frames, until a writer is through."""

    def __init__(self, number: int) -> None:
        self.seen: list[int] = []
        self.shown: list[tuple[int, int]] = []
        """Pairs of an event's sequence and that of a GET made on its receipt."""
        self._stays = itertools.cycle([1 + (number * 7 + step * step * 13) % 60 for step in range(17)])

    async def follow(self, rig: Rig, writer: Writer) -> None:
        while not (writer.done and self.seen and self.seen[-1] >= writer.last):
            async with listening(rig, "/api/v1/events", self.seen[-1] if self.seen else 0) as listener:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        async for frame, _ in _first(listener.frames(), next(self._stays)):
                            await self._take(rig, frame)

    async def _take(self, rig: Rig, frame: Frame) -> None:
        assert frame.id is not None
        self.seen.append(frame.id)
        if frame.id % 20 == 0:
            shown = await rig.ask("GET", f"{TASKS}/{frame.data['task_id']}")
            self.shown.append((frame.id, shown.json["sequence"]))


async def test_reconnecting_clients_miss_nothing_and_get_nothing_twice(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path, queue_limit=10_000, sse_coalesce_s=0.01)
    async with running(settings) as rig, asyncio.timeout(60):
        writer, wanderers = Writer(), [Wanderer(number) for number in range(8)]
        await asyncio.gather(writer.write(rig), *(wanderer.follow(rig, writer) for wanderer in wanderers))
        for wanderer in wanderers:
            assert wanderer.seen == list(range(1, writer.last + 1))
            assert wanderer.shown
            assert all(got >= sequence for sequence, got in wanderer.shown)


async def test_a_client_that_does_not_read_is_cut_off(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = settings_for(nats_server, tmp_path, queue_limit=10_000, sse_buffer_kib=16, sse_coalesce_s=0)
    async with running(settings) as rig:
        parts = urlsplit(rig.url)
        stuck = socket.socket()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.setblocking(False)  # noqa: FBT003 - the library's
        loop = asyncio.get_running_loop()
        await loop.sock_connect(stuck, (parts.hostname, parts.port))
        await loop.sock_sendall(stuck, b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        await loop.sock_recv(stuck, 100)
        async with listening(rig, "/api/v1/events") as quick:
            reading = asyncio.ensure_future(_last_id(quick))
            sent = 0
            closed = False
            while not closed and sent < 3000:
                await asyncio.gather(*(rig.submit(prompt="x" * 9_000) for _ in range(20)))
                sent += 20
                closed = not await _connections(parts.port or 0, stuck.getsockname()[1])
            assert closed
            reading.cancel()
        stuck.close()


async def _last_id(listener: Listener) -> None:
    async for _ in listener.frames():
        pass


async def _connections(server_port: int, client_port: int) -> bool:
    """Whether the server still has its end of a connection open."""
    here, there = f":{server_port:04X}", f":{client_port:04X}"
    lines = await asyncio.to_thread(Path("/proc/net/tcp").read_text)
    return any(
        columns[1].endswith(here) and columns[2].endswith(there) and columns[3] == "01"
        for columns in (line.split() for line in lines.splitlines()[1:])
    )


async def test_silent_streams_show_signs_of_life(nats_server: NatsServer, tmp_path: Path) -> None:
    settings = settings_for(nats_server, tmp_path, sse_heartbeat_s=0.05)
    async with running(settings) as rig, listening(rig, "/api/v1/events") as listener:
        lines = listener.lines()
        assert await anext(lines) == b"retry: 2000"
        assert await anext(lines) == b": heartbeat"


async def test_streams_and_waits_end_properly_when_the_api_stops(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with running(settings_for(nats_server, tmp_path)) as rig:
        task_id = await rig.submit()

        async def read(url: str, ready: asyncio.Event) -> bytes:
            async with rig.session.get(f"{url}/api/v1/events") as answer:
                ready.set()
                return await answer.read()  # fails on a stream that is cut

        streams = [asyncio.Event() for _ in range(20)]
        begun_at = asyncio.get_running_loop().time()
        async with running_api(rig.settings) as url:
            reads = [asyncio.ensure_future(read(url, ready)) for ready in streams]
            wait = asyncio.ensure_future(_status(rig, f"{url}{TASKS}/{task_id}?wait=60"))
            await asyncio.gather(*(ready.wait() for ready in streams))
        for text in await asyncio.gather(*reads):
            assert text.endswith(b"retry: 1000\n\n")
        assert await wait in (200, None)
        assert asyncio.get_running_loop().time() - begun_at < 5


async def _status(rig: Rig, url: str) -> int | None:
    try:
        async with rig.session.get(url) as answer:
            return answer.status
    except aiohttp.ClientConnectionError:
        return None  # it had not been accepted yet


async def test_streams_go_on_while_the_read_model_is_made_anew(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    settings = settings_for(nats_server, tmp_path)
    async with running(settings) as rig:
        before = [await rig.submit(prompt=str(number)) for number in range(5)]
        await rig.ask("GET", f"{TASKS}/{before[-1]}")
        async with listening(rig, "/api/v1/events", 0) as listener:
            frames = listener.frames()
            seen = [(await anext(frames)).id for _ in range(5)]
            settings.readmodel_path.unlink()
            after = TaskId(await rig.submit(prompt="after"))
            async with asyncio.timeout(20):
                seen += [(await anext(frames)).id]
            assert seen == [1, 2, 3, 4, 5, 6]

            async def listed() -> bool:
                reply = await rig.ask("GET", TASKS)
                return reply.status == 200 and reply.json["tasks"][0]["task_id"] == after

            await eventually(listed)
