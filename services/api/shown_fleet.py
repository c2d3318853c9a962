"""The backends and the queues as the API shows them.

The one rule: pure; no secret of a backend gets in here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import astuple

from schemas import control, envelope
from schemas.control import Pause
from schemas.fleet import Circuit, Condition, Health, Learned
from schemas.ids import ANY_MODEL, BackendId, TaskId
from schemas.lease import Lease
from schemas.registry import Backend, Protocol, Source, Wanted
from schemas.requests import Kind
from services.scheduling.hindsight import EtaError

Queue = tuple[str, str]
"""Kind and model, the latter as subjects spell it."""
Foretell = Callable[[Queue, float | None], tuple[float | None, EtaError | None]]
"""Gives ``eta_s`` and ``eta_error`` of a queue whose tasks are so many units of work, None: not known."""


class RunningView(Struct, frozen=True):
    """A slot that runs a task; ``since`` is when it was taken."""

    slot: int
    task_id: TaskId
    attempt: int | None
    dispatcher: str | None
    since: str | None


class BackendView(Struct, frozen=True, kw_only=True):
    """``protocol`` null: not recognised yet. ``draining``: takes nothing new and still runs something.

    ``condition`` is as the dispatchers see it, since ``since``; ``seconds_per_unit`` (of work, by model),
    ``load_s`` and ``warm_models`` are what runs have shown. ``alive_until``: of one that announced itself.
    """

    name: BackendId
    kind: Kind
    url: str
    protocol: Protocol | None
    models: tuple[str, ...]
    slots: int
    keeps: int
    weight: float
    labels: Mapping[str, str]
    wanted: Wanted
    source: Source
    alive_until: str | None
    condition: Condition
    circuit: Circuit
    reason: str | None
    since: str | None
    warm_models: tuple[str, ...]
    seconds_per_unit: Mapping[str, float]
    load_s: float | None
    draining: bool
    running: tuple[RunningView, ...]


class Fleet(Struct, frozen=True):
    backends: tuple[BackendView, ...]


class Counted(Struct, frozen=True):
    """A queue as the read model has it; ``oldest_at`` is of the oldest that is QUEUED or RETRYING.

    ``units`` is what its latest tasks are on average, in units of work; null while it has none.
    """

    kind: str
    model: str
    scheduled: int = 0
    queued: int = 0
    retrying: int = 0
    running: int = 0
    oldest_at: str | None = None
    units: float | None = None

    @property
    def empty(self) -> bool:
        return not (self.scheduled or self.queued or self.retrying or self.running)


class PauseView(Struct, frozen=True):
    """Nothing of the queue is started since ``at``."""

    at: str
    by: str
    reason: str | None


class HeldView(Struct, frozen=True):
    """A pause; ``model`` null: of the whole kind."""

    model: str | None
    at: str
    by: str
    reason: str | None


class Pauses(Struct, frozen=True):
    """Every pause of a kind, that of the whole kind first."""

    kind: Kind
    pauses: tuple[HeldView, ...]


class QueueView(Struct, frozen=True, kw_only=True):
    """``model`` is ``any`` where none was named; ``slots`` are those that take tasks of this queue now.

    ``eta_s``: so long a task submitted now, of normal priority and as large as the last ones on average,
    should take to its end; null where nobody can tell. ``eta_error``: of those before, null for none.
    """

    kind: str
    model: str
    waiting: int
    scheduled: int
    retrying: int
    running: int
    oldest_at: str | None
    slots: int
    eta_s: float | None
    eta_error: EtaError | None
    paused: PauseView | None


class Queues(Struct, frozen=True):
    """``lag``: how many messages of the log the counts are behind at most, null where NATS does not say."""

    queues: tuple[QueueView, ...]
    lag: int | None


def backend(
    known: Backend, running: Sequence[tuple[int, Lease]], health: Health, learned: Learned
) -> BackendView:
    """Show a backend; ``running`` is slot and lease of each one that runs a task."""
    return BackendView(
        name=known.name,
        kind=known.kind,
        url=known.shown_url,
        protocol=known.speaks,
        models=known.model_names,
        slots=known.slots,
        keeps=known.keeps,
        weight=known.weight,
        labels=known.labels,
        wanted=known.wanted,
        source=known.source,
        alive_until=_time(known.alive_until),
        condition=health.condition,
        circuit=health.circuit,
        reason=health.reason,
        since=_time(health.since),
        warm_models=learned.warm,
        seconds_per_unit=learned.seconds,
        load_s=learned.load_s,
        draining=known.wanted is not Wanted.ON and bool(running),
        running=tuple(
            RunningView(
                slot,
                lease.task_id,
                lease.attempt,
                lease.holder,
                _time(lease.since),
            )
            for slot, lease in running
            if lease.task_id is not None
        ),
    )


def queues(
    counted: Iterable[Counted], backends: Sequence[Backend], pauses: Mapping[str, Pause], foretell: Foretell
) -> tuple[QueueView, ...]:
    """Show every queue that has a task, a backend or a pause of its own, by kind and model."""
    known = {(queue.kind, queue.model): queue for queue in counted}
    found = {queue for queue, counts in known.items() if not counts.empty}
    served = {queue for backend in backends for queue in _served(backend)}
    held = {queue for queue in map(control.queue_of, pauses) if queue}
    return tuple(
        _queue(known.get(queue, Counted(*queue)), backends, control.paused(pauses, *queue), foretell)
        for queue in sorted({*found, *served, *held})
    )


def pauses(kind: Kind, known: Mapping[str, Pause]) -> Pauses:
    """Show the pauses of a kind."""
    whole = control.pause_key(kind)
    queues = {key: control.queue_of(key) for key in sorted(known) if key.startswith(whole)}
    return Pauses(
        kind,
        tuple(
            HeldView(queue[1] if queue else None, *astuple(pause(known[key])))
            for key, queue in queues.items()
            if key == whole or (queue and queue[0] == kind)
        ),
    )


def pause(held: Pause) -> PauseView:
    return PauseView(envelope.timestamp(held.at), held.by, held.reason)


def _served(known: Backend) -> set[Queue]:
    return {(known.kind, model) for model in (ANY_MODEL, *known.model_slugs)}


def _queue(
    counted: Counted, backends: Sequence[Backend], held: Pause | None, foretell: Foretell
) -> QueueView:
    queue = (counted.kind, counted.model)
    eta_s, eta_error = foretell(queue, counted.units)
    return QueueView(
        kind=counted.kind,
        model=counted.model,
        waiting=counted.queued,
        scheduled=counted.scheduled,
        retrying=counted.retrying,
        running=counted.running,
        oldest_at=counted.oldest_at,
        slots=sum(b.slots for b in backends if b.wanted is Wanted.ON and queue in _served(b)),
        eta_s=eta_s,
        eta_error=eta_error,
        paused=pause(held) if held else None,
    )


def _time(at: datetime | None) -> str | None:
    return envelope.timestamp(at) if at else None
