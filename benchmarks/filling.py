"""Fills the log with an invented history, faster than any client: ``python -m benchmarks.filling --help``.

The one rule: what is stored is what the product would have stored, headers and guards included; only the
way there is shorter: one connection, and an answer for every five hundredth message.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import click
import msgspec
import uvloop

from benchmarks.history import Happening, history
from schemas import envelope, events, subjects
from schemas.events import TaskScheduled, TaskSubmitted
from schemas.ids import TaskId
from services import clock
from services.bus.connection import Bus
from services.bus.streams import ensure_stream, stream_info

SOURCE: Final = "taskfold/benchmark"
BLOCK: Final = 500
UNDER_WAY: Final = 8
"""Blocks that were sent and not yet answered for."""
_INBOX: Final = "_INBOX.filling"
_QUIET_NS: Final = 1_000_000_000
_CONNECT: Final = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"lang":"python","version":"0"}\r\n'


@click.command()
@click.argument("nats_url")
@click.option("--tasks", type=int, required=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--until", required=True, help="When the history ends, in ISO 8601.")
def main(nats_url: str, tasks: int, seed: int, until: str) -> None:
    """Fill the empty log of a server; prints how many messages were stored, and in how many seconds."""
    told = history(seed, tasks, datetime.fromisoformat(until))
    print(*uvloop.run(fill(nats_url, told)), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(asyncio.Event().wait())


async def fill(nats_url: str, told: Iterator[Happening]) -> tuple[int, float]:
    """Store a history; the stream is made anew by ``init`` what it is not here: for any number of days."""
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
    """Make the log, for now without the memory of the last two minutes' ids, millions here, and the hints."""
    log = next(s for s in subjects.streams(max_age_days=14, artifact_bytes=1) if s["name"] == subjects.TASKS)
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
    for _ in range(UNDER_WAY):
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
    """The history as what goes over the wire. ``sent``: how many messages so far, which are sequences."""

    def __init__(self, told: Iterator[Happening]) -> None:
        self._told = told
        self._last: dict[TaskId, int] = {}
        self.sent = 0

    def blocks(self) -> Iterator[bytes]:
        """Give blocks of messages, of which the last of each is answered."""
        block: list[bytes] = []
        answered = 0
        for happening in self._told:
            for subject, headers, body in self._messages(happening):
                self.sent += 1
                due = self.sent - answered >= BLOCK
                block.append(wire(subject, headers, body, _INBOX if due else ""))
                if due:
                    yield b"".join(block)
                    answered = self.sent
                    block.clear()
        if block:
            # An answer for what is left: a question that changes nothing, behind all of it.
            yield b"".join(block)

    def _messages(self, happening: Happening) -> Iterator[tuple[str, Mapping[str, str], bytes]]:
        at, address, event, event_id = happening
        own = address.task_id
        attributes = envelope.attributes(event, task_id=own, event_id=event_id, source=SOURCE, at=at)
        guard = envelope.guarded(self._last.get(own, 0), address.guard)
        yield address.subject(type(event)), {**attributes, **guard}, events.encode(event)
        self._last[own] = self.sent
        if isinstance(event, TaskScheduled) and event.submission.not_before:
            submitted = TaskSubmitted(submission=event.submission)
            attributes = envelope.attributes(
                submitted, task_id=own, event_id=clock.new_event_id(), source=SOURCE, at=at
            )
            schedule = envelope.schedule(event.submission.not_before, address.subject(TaskSubmitted))
            yield subjects.schedule_subject(own), {**attributes, **schedule}, events.encode(submitted)


def wire(subject: str, headers: Mapping[str, str], body: bytes, reply: str = "") -> bytes:
    """Spell a message as NATS has it on the wire."""
    head = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    text = f"NATS/1.0\r\n{head}\r\n".encode()
    return f"HPUB {subject} {reply} {len(text)} {len(text) + len(body)}\r\n".encode() + text + body + b"\r\n"


if __name__ == "__main__":
    main()
