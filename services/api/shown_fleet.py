"""The backends and the queues as the API shows them.

The one rule: pure; no secret of a backend gets in here.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from schemas import envelope
from schemas.ids import ANY_MODEL, BackendId, TaskId
from schemas.lease import Lease
from schemas.registry import Backend, Protocol, Source, Wanted
from schemas.requests import Kind

Queue = tuple[str, str]
"""Kind and model, the latter as subjects spell it."""


class RunningView(Struct, frozen=True):
    """A slot that runs a task; ``since`` is when it was taken."""

    slot: int
    task_id: TaskId
    attempt: int | None
    dispatcher: str | None
    since: str | None


class BackendView(Struct, frozen=True, kw_only=True):
    """``protocol`` null: not recognised yet. ``draining``: takes nothing new and still runs something."""

    name: BackendId
    kind: Kind
    url: str
    protocol: Protocol | None
    models: tuple[str, ...]
    slots: int
    weight: float
    wanted: Wanted
    source: Source
    draining: bool
    running: tuple[RunningView, ...]


class Fleet(Struct, frozen=True):
    backends: tuple[BackendView, ...]


class Counted(Struct, frozen=True):
    """A queue as the read model has it; ``oldest_at`` is of the oldest that is QUEUED or RETRYING."""

    kind: str
    model: str
    scheduled: int = 0
    queued: int = 0
    retrying: int = 0
    running: int = 0
    oldest_at: str | None = None

    @property
    def empty(self) -> bool:
        return not (self.scheduled or self.queued or self.retrying or self.running)


class QueueView(Struct, frozen=True, kw_only=True):
    """``model`` is ``any`` where none was named; ``slots`` are those that take tasks of this queue now."""

    kind: str
    model: str
    waiting: int
    scheduled: int
    retrying: int
    running: int
    oldest_at: str | None
    slots: int


class Queues(Struct, frozen=True):
    """``lag``: how many messages of the log the counts are behind at most, null where NATS does not say."""

    queues: tuple[QueueView, ...]
    lag: int | None


def backend(known: Backend, running: Sequence[tuple[int, Lease]]) -> BackendView:
    """Show a backend; ``running`` is slot and lease of each one that runs a task."""
    return BackendView(
        name=known.name,
        kind=known.kind,
        url=known.shown_url,
        protocol=known.speaks,
        models=known.model_names,
        slots=known.slots,
        weight=known.weight,
        wanted=known.wanted,
        source=known.source,
        draining=known.wanted is not Wanted.ON and bool(running),
        running=tuple(
            RunningView(
                slot,
                lease.task_id,
                lease.attempt,
                lease.holder,
                envelope.timestamp(lease.since) if lease.since else None,
            )
            for slot, lease in running
            if lease.task_id is not None
        ),
    )


def queues(counted: Iterable[Counted], backends: Sequence[Backend]) -> tuple[QueueView, ...]:
    """Show every queue that has a task or a backend, by kind and model."""
    found = {(queue.kind, queue.model): queue for queue in counted if not queue.empty}
    served = {queue for known in backends for queue in _served(known)}
    return tuple(_queue(found.get(queue, Counted(*queue)), backends) for queue in sorted({*found, *served}))


def _served(known: Backend) -> set[Queue]:
    return {(known.kind, model) for model in (ANY_MODEL, *known.model_slugs)}


def _queue(counted: Counted, backends: Sequence[Backend]) -> QueueView:
    queue = (counted.kind, counted.model)
    return QueueView(
        kind=counted.kind,
        model=counted.model,
        waiting=counted.queued,
        scheduled=counted.scheduled,
        retrying=counted.retrying,
        running=counted.running,
        oldest_at=counted.oldest_at,
        slots=sum(b.slots for b in backends if b.wanted is Wanted.ON and queue in _served(b)),
    )
