"""Where tasks stand that have not ended, foretold anew again and again while anybody wants to know.

The one rule: a position is counted as it is read, far back from a place that was looked up a moment ago;
the future is laid out beside the reads, a little at a time, so that no read waits for it. Only who has just
come to a short line is laid out as he asks.
"""

import asyncio
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from schemas import readmodel
from schemas.ids import TaskId
from schemas.requests import Instant, Kind, Priority
from schemas.standing import Standing, Why, standing
from schemas.subjects import Lane
from schemas.task import FINAL, Status
from services.api import in_line
from services.api.hub import FINAL_TYPES
from services.api.in_line import Facts, First, Places
from services.api.moments import Moments
from services.api.onlooking import Onlooking
from services.api.queries import ReadModel, ReadModelAwayError, Row
from services.leases import Leases
from services.scheduling.hindsight import EtaError, Hindsight
from services.scheduling.outlook import Outlook, Waiting
from services.scheduling.rest import still_s

log = structlog.get_logger()

EVERY_S: Final = 0.2
_REST: Final = 20  # so many times as long as it took: never more than a twentieth of a core
_STALE_S: Final = 0.5
_PATIENCE_S: Final = 0.25
_AT_ONCE: Final = 20
_SECOND: Final = timedelta(seconds=1)
_LONGEST_RETRY_S: Final = 60
_NOWHERE: Final = Places((), ())
_IN_LINE: Final = frozenset({Status.QUEUED, Status.RETRYING})
_QUEUEING: Final = frozenset({"task.submitted", "task.attempt_failed", "task.requeued"})

Queue = tuple[str, str]
"""Kind and model."""


class _Ended(Struct, frozen=True):
    time: Instant


_decode_ended: Final = msgspec.json.Decoder(_Ended).decode


class _Look(Struct, frozen=True):
    """One look at everything; what is not known of a kind yet is not in it."""

    at: datetime
    outlooks: dict[str, Outlook]
    places: Mapping[str, Mapping[str, Places]]
    waiting: bool

    def seconds(self, at: datetime) -> float:
        return (at - self.at).total_seconds()


class Foresight:
    """``now`` is the time of day, ``clock`` any that never steps back, in seconds."""

    def __init__(
        self,
        model: ReadModel,
        moments: Moments,
        leases: Leases,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        onlooking: Onlooking,
    ) -> None:
        self._model = model
        self._moments = moments
        self._leases = leases
        self._now = now
        self._clock = clock
        self._onlooking = onlooking
        self._hindsight: Hindsight[Queue] = Hindsight()
        self._look: _Look | None = None
        self._fresh_until = -math.inf
        self._wanted = asyncio.Event()
        self._renewed = asyncio.Event()

    async def run(self) -> None:
        """Look, now and then while anybody asks or anything waits; runs until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            began = self._clock()
            try:
                self._look = await self._looked()
            except ReadModelAwayError:
                self._look = None  # said already
            pause_s = max(EVERY_S, _REST * (self._clock() - began))
            self._fresh_until = self._clock() + max(_STALE_S, 2 * pause_s)
            renewed, self._renewed = self._renewed, asyncio.Event()
            renewed.set()
            if self._look and self._look.waiting:
                self._wanted.set()
            await asyncio.sleep(pause_s)

    async def fresh(self) -> bool:
        """Say that somebody asks; after a time without questions, wait a moment for what is new.

        True if that was so.
        """
        self._wanted.set()
        if self._clock() < self._fresh_until:
            return False
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._renewed.wait()
        except TimeoutError:
            log.debug("outlook.late")
        return True

    async def _looked(self) -> _Look:
        firsts = {kind: await in_line.first(self._model, kind, self._now()) for kind in Kind}
        at, running = self._now(), self._moments.running()  # read last, so nobody who began since is missed
        moments = self._moments.now(at)
        self._onlooking.look(running)
        outlooks: dict[str, Outlook] = {}
        for kind, moment in moments.items():
            first = firsts[Kind(kind)].without(running)
            outlook = Outlook(moment, first.lineup, self._onlooking.of[kind])
            for _ in outlook.steps(_AT_ONCE):
                await asyncio.sleep(0)
            self._note_all(outlook, first, at)
            outlooks[kind] = outlook
        places = {str(kind): first.places for kind, first in firsts.items()}
        return _Look(at, outlooks, places, any(first.task_ids for first in firsts.values()))

    def _note_all(self, outlook: Outlook, first: First, at: datetime) -> None:
        for task, task_id in zip(first.lineup.first, first.task_ids, strict=True):
            run = outlook.runs.get(task.number)
            if run is not None:
                self._note(outlook, task_id, task.lane, at, at + timedelta(seconds=run.end_s))

    def _note(self, outlook: Outlook, task_id: TaskId, lane: Lane, now: datetime, end_at: datetime) -> None:
        """Keep in mind what is foretold, to see later how true it was; a mere guess is not held to that."""
        if outlook.moment.has_run(lane.model):
            self._hindsight.note(task_id, _queue(lane), now.timestamp(), end_at.timestamp())

    def happened(self, row: Row) -> None:
        """Take in a row of ``events``: what was foretold has come, or somebody new is in line."""
        _, task_id, kind, wire, *_ = row
        if kind == "task.done" and self._hindsight.noted(task_id):
            self._hindsight.done(task_id, _decode_ended(wire).time.timestamp())
        elif kind in FINAL_TYPES:
            self._hindsight.drop(task_id)
        elif kind in _QUEUEING:
            self._wanted.set()

    def standing(self, task: Facts) -> Standing | None:
        """Say where a task stands, None once it has ended."""
        if task.status in FINAL:
            return None
        now = self._now()
        if task.status in _IN_LINE:
            position = self._position(task)
            why, end_at = self._waiting(task, position, now)
            return standing(position, _shown(end_at, now), why)
        if task.status == Status.RUNNING:
            return standing(None, _shown(_still(self._running(task), now), now), Why.RUNNING)
        return standing(None, _shown(self._scheduled(task), now), Why.SCHEDULED)

    def _position(self, task: Facts) -> int | None:
        """Count from the head of the line, or from a place that is known where that is too far."""
        ahead, lane = task.ahead, task.lane
        if ahead is None or ahead < readmodel.MOST_COUNTED or self._look is None:
            return None if ahead is None else ahead + 1
        numbers, before = self._look.places.get(lane.kind, {}).get(lane.priority, _NOWHERE)
        last = bisect_right(numbers, task.number) - 1
        if last < 0:
            return ahead + 1
        place = before[last]
        if numbers[last] != task.number:
            row = self._model.row(readmodel.BETWEEN, lane.kind, lane.priority, numbers[last], task.number)
            place += row[0] if row else 0
        return max(ahead, place) + 1

    def _waiting(self, task: Facts, position: int | None, now: datetime) -> tuple[Why, datetime | None]:
        look, outlook = self._look, self._outlook(task.lane.kind)
        if look is None or outlook is None:
            return Why.RETRY_DELAY if task.times.due_s(now) else Why.WAITING_FOR_SLOT, None
        waiting = Waiting(task.number, task.lane, task.tenant, task.units, task.times.due_s(look.at))
        outlook = look.outlooks[task.lane.kind] = outlook.joined(waiting)
        why, end_s = outlook.foretold(waiting, position, look.seconds(now))
        if end_s is None:
            return why, None
        end_at = look.at + timedelta(seconds=end_s)
        self._note(outlook, task.task_id, task.lane, now, end_at)
        return why, end_at

    def _running(self, task: Facts) -> datetime | None:
        lease = self._leases.of_task(task.task_id)
        if lease is not None and lease.expected_end_at is not None:
            return lease.expected_end_at
        outlook, started_at = self._outlook(task.lane.kind), task.times.started_at
        if outlook is None or started_at is None or task.backend is None:
            return None
        run_s = outlook.moment.run_on_s(task.backend, task.lane.model, task.units)
        return None if run_s is None else started_at + timedelta(seconds=run_s)

    def _scheduled(self, task: Facts) -> datetime | None:
        outlook, not_before = self._outlook(task.lane.kind), task.times.not_before
        if outlook is None or not_before is None:
            return None
        run_s = outlook.moment.run_s(task.lane.model, task.units)
        return None if run_s is None else not_before + timedelta(seconds=run_s)

    def foretell(self, queue: Queue, units: float | None) -> tuple[float | None, EtaError | None]:
        """Give what is shown of a queue: how long a task takes, and how true that was so far."""
        return self._eta_s(queue, units), self._hindsight.error(queue)

    def _eta_s(self, queue: Queue, units: float | None) -> float | None:
        """Say how long a new task of a queue would take to its end; None where nobody can tell."""
        look, outlook = self._look, self._outlook(queue[0])
        if look is None or outlook is None or units is None:
            return None
        new = Waiting(0, Lane(*queue, Priority.NORMAL, 0), "", units)
        after_s = look.seconds(self._now())
        end_s = outlook.end_behind_s(new, after_s=after_s)
        return None if end_s is None else round(end_s - after_s, 1)

    def retry_after_s(self, kind: str, tenant: str | None = None) -> int | None:
        """Say when there should be room again: when the next task starts, of all or of one tenant."""
        look, outlook = self._look, self._outlook(kind)
        start_s = outlook.start_s(tenant) if outlook else None
        if look is None or start_s is None:
            return None
        return min(_LONGEST_RETRY_S, max(1, math.ceil(start_s - look.seconds(self._now()))))

    def _outlook(self, kind: str) -> Outlook | None:
        return self._look.outlooks.get(kind) if self._look else None


def _queue(lane: Lane) -> Queue:
    return lane.kind, lane.model


def _still(end_at: datetime | None, now: datetime) -> datetime | None:
    """Give when a run should end, also where that is late already."""
    return None if end_at is None else now + timedelta(seconds=still_s((end_at - now).total_seconds()))


def _shown(end_at: datetime | None, now: datetime) -> datetime | None:
    """Round to whole seconds, to the next one at the earliest."""
    if end_at is None:
        return None
    end_at = max(end_at + _SECOND / 2, now + _SECOND)
    return end_at.replace(microsecond=0)
