"""Fills the log with an invented history, faster than any client: ``python -m benchmarks.filling --help``.

The one rule: what is stored is what the product would have stored, headers and guards included; only the
way there is shorter: one connection, and an answer for every five hundredth message.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import click
import uvloop

from benchmarks.history import Happening, history
from schemas import envelope, events, subjects
from schemas.events import TaskCancelled, TaskDone, TaskExpired, TaskFailed, TaskScheduled, TaskSubmitted
from schemas.ids import TaskId
from services import clock, telemetry
from services.bus.connection import Bus
from services.bus.streams import ensure_stream, stream_info

SOURCE: Final = "taskfold/benchmark"
BLOCK: Final = 500
UNDER_WAY: Final = 8
"""Blocks that were sent and not yet answered for."""
_INBOX: Final = "_INBOX.filling"
_QUIET_NS: Final = 1_000_000_000
_ENDS: Final = (TaskDone, TaskFailed, TaskCancelled, TaskExpired)
_CONNECT: Final = (
    b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"lang":"python","version":"0"}\r\n'
)

Message = tuple[str, Mapping[str, str], bytes]
"""Subject, headers, body."""


@click.command()
@click.argument("nats_url")
@click.option("--tasks", type=int, required=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--until", required=True, help="When the history ends, in ISO 8601.")
def main(nats_url: str, tasks: int, seed: int, until: str) -> None:
    """Fill the empty log of a server; prints how many messages were stored, and in how many seconds."""
    telemetry.configure("filling", "warning", "text")
    print(*uvloop.run(fill(nats_url, history(seed, tasks, datetime.fromisoformat(until)))), flush=True)


async def fill(nats_url: str, told: Iterator[Happening]) -> tuple[int, float]:
    """Store a history; ``init`` makes of the stream what it is to be."""
    bus = Bus(nats_url, "filling")
    await bus.connect()
    await _make_stream(bus)
    began = time.monotonic()
    sent = await _write(nats_url, told)
    took_s = time.monotonic() - began
    stored = (await stream_info(bus, subjects.TASKS)).last
    assert stored == sent, f"{sent} messages were sent and {stored} stored"
    await bus.close()
    return stored, round(took_s, 2)


async def _make_stream(bus: Bus) -> None:
    """Make the log, as yet without hints, and without two minutes' ids, which would be millions here."""
    log = next(
        s for s in subjects.streams(max_age_days=14, artifact_bytes=1) if s["name"] == subjects.TASKS
    )
    await ensure_stream(
        bus, {**{k: v for k, v in log.items() if k != "republish"}, "duplicate_window": _QUIET_NS}
    )


async def _write(nats_url: str, told: Iterator[Happening]) -> int:
    where = urlsplit(nats_url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 20)
    writer.write(_CONNECT + f"SUB {_INBOX} 1\r\n".encode())
    under_way = asyncio.Semaphore(UNDER_WAY)
    listening = asyncio.create_task(_answers(reader, writer, under_way))
    messages = Messages(told)
    for block in messages.blocks():
        await under_way.acquire()
        writer.write(block)
        await writer.drain()
        if listening.done():
            listening.result()
    for _ in range(UNDER_WAY):  # until every block is answered
        await under_way.acquire()
    listening.cancel()
    writer.close()
    return messages.sent


async def _answers(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, under_way: asyncio.Semaphore
) -> None:
    """Count the blocks that were stored; a refusal ends it."""
    while True:
        line = await reader.readline()
        assert line, "the server went away"
        assert not line.startswith(b"-ERR"), line
        if line.startswith(b"PING"):
            writer.write(b"PONG\r\n")
        elif b'"error"' in line:
            raise AssertionError(line)
        elif line.startswith(b'{"stream"'):
            under_way.release()


class Messages:
    """The history as what goes over the wire. ``sent``: how many messages so far."""

    def __init__(self, told: Iterator[Happening]) -> None:
        self._told = told
        self._last: dict[TaskId, int] = {}
        self._made = 0
        """How many messages so far, and so the sequence of the last."""
        self.sent = 0

    def blocks(self) -> Iterator[bytes]:
        """Give blocks of messages, of which the last of each is answered."""
        messages = (message for happening in self._told for message in self._messages(happening))
        while block := list(itertools.islice(messages, BLOCK)):
            self.sent += len(block)
            *others, last = block
            yield b"".join([wire(*message) for message in others]) + wire(*last, _INBOX)

    def _messages(self, happening: Happening) -> Iterator[Message]:
        at, address, event, event_id = happening
        own = address.task_id
        attributes = envelope.attributes(event, task_id=own, event_id=event_id, source=SOURCE, at=at)
        guard = envelope.guarded(self._last.get(own, 0), address.guard)
        self._made += 1
        self._last[own] = self._made
        yield address.subject(type(event)), {**attributes, **guard}, events.encode(event)
        if isinstance(event, TaskScheduled) and event.submission.not_before:
            submitted = TaskSubmitted(submission=event.submission)
            attributes = envelope.attributes(
                submitted, task_id=own, event_id=clock.new_event_id(), source=SOURCE, at=at
            )
            schedule = envelope.schedule(event.submission.not_before, address.subject(TaskSubmitted))
            self._made += 1
            yield subjects.schedule_subject(own), {**attributes, **schedule}, events.encode(submitted)
        elif isinstance(event, _ENDS):
            del self._last[own]


def wire(subject: str, headers: Mapping[str, str], body: bytes, reply: str = "") -> bytes:
    """Spell a message as NATS has it on the wire."""
    head = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    text = f"NATS/1.0\r\n{head}\r\n".encode()
    return (
        f"HPUB {subject} {reply} {len(text)} {len(text) + len(body)}\r\n".encode() + text + body + b"\r\n"
    )


if __name__ == "__main__":
    main()
