"""What was, to be replayed: the api's own documents as arrivals and as the GPUs that served them.

The one rule: only tasks that were done tell how long they take; all others are left out and counted.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from statistics import fmean
from typing import Final

import msgspec
from msgspec import Raw, Struct

from schemas import events, work
from schemas.errors import UndecodableError
from schemas.events import TaskDone, TaskStarted, TaskSubmitted
from schemas.fleet import Learned
from schemas.ids import ANY_MODEL, BackendId, slug
from schemas.registry import Wanted
from schemas.requests import AnySubmission
from schemas.subjects import Lane, lanes_of_tenant
from services.scheduling.estimates import Estimates
from services.scheduling.simulation import Arrival, Machine
from services.scheduling.situation import Gpu


class _Event(Struct, frozen=True):
    type: str
    time: datetime
    task_id: str
    data: Raw


class _Backend(Struct, frozen=True):
    name: BackendId
    kind: str
    models: tuple[str, ...] = ()
    slots: int = 1
    keeps: int = 1
    weight: float = 1.0
    wanted: str = Wanted.ON
    seconds_per_unit: Mapping[str, float] = {}
    load_s: float | None = None


class _Line(Struct, frozen=True):
    """An event, a page of them, or the backends."""

    type: str | None = None
    events: tuple[_Event, ...] | None = None
    backends: tuple[_Backend, ...] | None = None


class _Task(Struct):
    submission: AnySubmission | None = None
    submitted_at: datetime | None = None
    started: TaskStarted | None = None
    started_at: datetime | None = None
    done: TaskDone | None = None
    done_at: datetime | None = None


class _Run(Struct, frozen=True, kw_only=True):
    """A task that was done; ``own`` is the model that it ran on by the backend's own name."""

    submission: AnySubmission
    submitted_at: datetime
    backend: BackendId
    own: str
    units: float
    run_s: float
    cold: bool
    started_at: datetime
    done_at: datetime


class Past(Struct, frozen=True, kw_only=True):
    """``left_out`` tasks came in and were not done."""

    arrivals: tuple[Arrival, ...]
    machines: tuple[Machine, ...]
    left_out: int


_decode_line: Final = msgspec.json.Decoder(_Line).decode
_decode_event: Final = msgspec.json.Decoder(_Event).decode


class Recording:
    """Takes documents in, in any order."""

    def __init__(self) -> None:
        self._tasks: defaultdict[str, _Task] = defaultdict(_Task)
        self._backends: dict[BackendId, _Backend] = {}

    def add(self, document: bytes) -> None:
        """Take in an event, a page of events or the backends; UndecodableError for anything else."""
        try:
            line = _decode_line(document)
            found = (_decode_event(document),) if line.type else line.events
        except (ValueError, RecursionError) as error:
            raise UndecodableError(str(error)) from error
        if found is None and line.backends is None:
            raise UndecodableError("neither events nor backends")
        self._backends |= {backend.name: backend for backend in line.backends or ()}
        for event in found or ():
            self._note(event)

    def _note(self, event: _Event) -> None:
        try:
            decoded = events.decode(event.type.removeprefix("task."), bytes(event.data))
        except UndecodableError:
            return
        task = self._tasks[event.task_id]
        if isinstance(decoded, TaskSubmitted):
            task.submission, task.submitted_at = decoded.submission, event.time
        elif isinstance(decoded, TaskStarted):
            task.started, task.started_at = decoded, event.time
        elif isinstance(decoded, TaskDone):
            task.done, task.done_at = decoded, event.time

    def past(self, most: int, model_load_s: float) -> Past:
        """Give the last tasks that were done, ``most`` of them, and the GPUs that could have served them.

        A load takes ``model_load_s`` where none was ever seen.
        """
        runs = sorted(filter(None, map(_run, self._tasks.values())), key=lambda run: run.submitted_at)
        machines = _Fleet(runs, self._backends, model_load_s).machines()
        usual = {machine.name: machine.seconds for machine in machines}
        kept = runs[-most:]
        return Past(
            arrivals=tuple(
                _arrival(run, kept[0].submitted_at, usual[run.backend][run.own]) for run in kept
            ),
            machines=machines,
            left_out=sum(task.submission is not None for task in self._tasks.values()) - len(runs),
        )


def _run(task: _Task) -> _Run | None:
    started, done = task.started, task.done
    if task.submission is None or task.submitted_at is None or task.started_at is None:
        return None
    if started is None or done is None or task.done_at is None:
        return None
    asked = task.submission.model
    candidates = started.decision.candidates if started.decision else ()
    return _Run(
        submission=task.submission,
        submitted_at=task.submitted_at,
        backend=started.backend,
        own=started.model or asked,
        units=started.units or work.units(task.submission),
        run_s=done.usage.run_s,
        cold=any(candidate.cold for candidate in candidates if candidate.backend == started.backend),
        started_at=task.started_at,
        done_at=task.done_at,
    )


def _arrival(run: _Run, first_at: datetime, usual_s: float) -> Arrival:
    """Make a task come again. What a cold run was beside its load is not known, so it takes the usual."""
    made = run.submission
    expected_s = usual_s * run.units
    number, _ = lanes_of_tenant(made.tenant)
    return Arrival(
        at_s=(run.submitted_at - first_at).total_seconds(),
        lane=Lane(made.kind, made.model, made.priority, number),
        tenant=made.tenant,
        user=made.user,
        units=run.units,
        factor=run.run_s / expected_s if expected_s and not run.cold else 1.0,
    )


class _Fleet:
    """Infers machines from runs, in the order of submission, and from the backends that are registered."""

    def __init__(
        self, runs: Sequence[_Run], backends: Mapping[BackendId, _Backend], model_load_s: float
    ) -> None:
        self._runs: dict[BackendId, list[_Run]] = {}
        for run in runs:
            self._runs.setdefault(run.backend, []).append(run)
        self._backends = {
            name: backend
            for name, backend in backends.items()
            if backend.wanted == Wanted.ON or name in self._runs
        }
        self._asked = {(run.submission.kind, run.submission.model, run.own) for run in runs}
        self._model_load_s = model_load_s

    def machines(self) -> tuple[Machine, ...]:
        known = {name: self._seen(name) for name in sorted({*self._runs, *self._backends})}
        estimates = {
            kind: Estimates([gpu for gpu in known.values() if gpu.kind == kind], self._model_load_s)
            for kind in {gpu.kind for gpu in known.values()}
        }
        return tuple(self._machine(gpu, estimates[gpu.kind]) for gpu in known.values())

    def _machine(self, gpu: Gpu, estimates: Estimates) -> Machine:
        backend = self._backends.get(gpu.name)
        owned = {*gpu.models.values(), *(run.own for run in self._runs.get(gpu.name, []))} or {ANY_MODEL}
        return Machine(
            name=gpu.name,
            kind=gpu.kind,
            models=gpu.models,
            seconds={own: estimates.run_s(gpu, own, 1.0) for own in owned},
            load_s=max((estimates.load_s(gpu, own, ()) for own in owned), default=0.0),
            warm=gpu.learned.warm,
            slots=backend.slots if backend else _most_at_once(self._runs[gpu.name]),
            keeps=gpu.keeps,
            weight=gpu.weight,
        )

    def _seen(self, name: BackendId) -> Gpu:
        """Tell what is known of a backend for sure, as a GPU that has learned it."""
        backend, runs = self._backends.get(name), self._runs.get(name, [])
        keeps = backend.keeps if backend else 1
        seconds = _seconds(runs)
        first = {run.own: run for run in reversed(runs)}
        return Gpu(
            name=name,
            kind=backend.kind if backend else runs[0].submission.kind,
            models=self._models(name),
            keeps=keeps,
            weight=backend.weight if backend else 1.0,
            learned=Learned(
                seconds={**(backend.seconds_per_unit if backend else {}), **seconds},
                load_s=_load_s(runs, seconds, backend.load_s if backend else None),
                warm=tuple(own for own, run in reversed(first.items()) if not run.cold)[:keeps],
            ),
        )

    def _models(self, name: BackendId) -> Mapping[str, str]:
        """Give the models by what may be asked for: as registered, and as they have been asked for."""
        backend, runs = self._backends.get(name), self._runs.get(name, [])
        models = {slug(model): model for model in backend.models} if backend else {}
        for run in runs:
            if run.own != ANY_MODEL:
                models[slug(run.own)] = run.own
        owned = set(models.values())
        kind = backend.kind if backend else runs[0].submission.kind
        models |= {
            asked
            for asked in sorted(
                (model, own) for of, model, own in self._asked if of == kind and own in owned
            )
            if asked[0] != ANY_MODEL
        }
        return models


def _seconds(runs: Iterable[_Run]) -> Mapping[str, float]:
    """Give the seconds per unit of work of each model that has run warm."""
    took: defaultdict[str, float] = defaultdict(float)
    units: defaultdict[str, float] = defaultdict(float)
    for run in runs:
        if not run.cold:
            took[run.own] += run.run_s
            units[run.own] += run.units
    return {own: took[own] / units[own] for own in took}


def _load_s(runs: Iterable[_Run], seconds: Mapping[str, float], else_s: float | None) -> float | None:
    loads = [
        max(0.0, run.run_s - seconds[run.own] * run.units)
        for run in runs
        if run.cold and run.own in seconds
    ]
    return fmean(loads) if loads else else_s


def _most_at_once(runs: Iterable[_Run]) -> int:
    """Count the runs that overlapped: who is not registered any more had so many slots at least."""
    changes = [(run.started_at, 1) for run in runs] + [(run.done_at, -1) for run in runs]
    return max(1, *accumulate(change for _, change in sorted(changes)))
