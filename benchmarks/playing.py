"""Tasks that come in at given times, whoever waits, and what became of each.

The one rule: nobody waits for a task before the next one comes, so that a queue may grow.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from benchmarks.client import Connection, get, post
from benchmarks.rig import Rig
from benchmarks.submit import PATH
from schemas.ids import TaskId
from services import clock
from services.gpusim.model import UNIT_AREA

SIDE: Final = 64
STEPS: Final = 20
"""Of a task of the usual size."""
MOST_STEPS: Final = 200
PATIENCE_S: Final = 600.0


class Coming(Struct, frozen=True, kw_only=True):
    """A task that comes ``at_s`` seconds after the first moment, as large as so many ``steps``."""

    at_s: float
    tenant: str
    steps: int
    model: str


class Seen(Struct, frozen=True, kw_only=True):
    """A task that was done, by its document. Times are Unix seconds; ``eta_at`` as it was first given."""

    tenant: str
    steps: int
    submitted_at: float
    started_at: float
    finished_at: float
    asked_at: float | None = None
    eta_at: float | None = None

    @property
    def total_s(self) -> float:
        return self.finished_at - self.submitted_at

    @property
    def run_s(self) -> float:
        return self.finished_at - self.started_at


def step_ms(task_s: float) -> float:
    """Give the option of a simulated GPU that makes a task of the usual size take so long."""
    return task_s * 1000 / STEPS * UNIT_AREA / SIDE**2


def steps(factor: float) -> int:
    """Give the steps of a task that is so many times the usual size."""
    return min(MOST_STEPS, max(1, round(factor * STEPS)))


async def play(rig: Rig, coming: Sequence[Coming], *, ask: bool = False) -> list[Seen]:
    """Submit each in its time and wait for the end of all; ``ask`` reads each one's document at once."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    task_ids = []
    first: dict[TaskId, tuple[float, float | None]] = {}
    async with rig.connection() as connection:
        for each in coming:
            await asyncio.sleep(max(0.0, began + each.at_s - loop.time()))
            task_id = await _submitted(connection, each)
            task_ids.append(task_id)
            if ask:
                first[task_id] = await _foretold(connection, task_id)
    documents = await rig.finish(task_ids, PATIENCE_S)
    return [
        _seen(document, one, first.get(task_id, (None, None)))
        for one, task_id, document in zip(coming, task_ids, documents, strict=True)
    ]


async def _submitted(connection: Connection, coming: Coming) -> TaskId:
    wanted = {"prompt": "a red fox", "width": SIDE, "height": SIDE, "seed": 1}
    body = {**wanted, "steps": coming.steps, "model": coming.model}
    answer = await connection.ask(post(PATH, msgspec.json.encode(body), coming.tenant))
    assert answer.status == 202, answer
    return TaskId(msgspec.json.decode(answer.body)["task_id"])


async def _foretold(connection: Connection, task_id: TaskId) -> tuple[float, float | None]:
    """Say when it was asked and what was foretold, None where nothing was."""
    answer = await connection.ask(get(f"/api/v1/tasks/{task_id}"))
    assert answer.status == 200, answer
    queue = msgspec.json.decode(answer.body)["queue"] or {}
    asked_at = clock.now()
    eta_at = queue.get("eta_at")
    return asked_at.timestamp(), _unix(eta_at) if eta_at else None


def _seen(document: dict[str, Any], coming: Coming, first: tuple[float | None, float | None]) -> Seen:
    asked_at, eta_at = first
    return Seen(
        tenant=coming.tenant,
        steps=coming.steps,
        submitted_at=_unix(document["submitted_at"]),
        started_at=_unix(document["started_at"]),
        finished_at=_unix(document["finished_at"]),
        asked_at=asked_at,
        eta_at=eta_at,
    )


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
