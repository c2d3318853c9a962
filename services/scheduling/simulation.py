"""What would have been: arrivals replayed through a policy, on GPUs whose true speeds it has to learn.

The one rule: a replay is a pure function of what it is given; two of the same differ in nothing.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from schemas.fleet import Learned
from schemas.ids import BackendId
from schemas.subjects import Lane
from services.scheduling.estimates import Estimates, after, is_cold, learned, runs_as
from services.scheduling.fairness import Turns
from services.scheduling.matching import match
from services.scheduling.outcome import Outcome, Tenants, percentiles
from services.scheduling.policies import affine
from services.scheduling.rest import still_s
from services.scheduling.situation import Choice, Gpu, Line

AFFINITY: Final = "user_affinity"


class Arrival(Struct, frozen=True, kw_only=True):
    """A task that comes in at ``at_s``: ``units`` of work, which take ``factor`` times the usual."""

    at_s: float
    lane: Lane
    tenant: str = "default"
    user: str | None = None
    units: float = 1.0
    factor: float = 1.0


class Machine(Struct, frozen=True, kw_only=True):
    """A GPU as it truly is. ``seconds`` a unit takes by its own model names, ``load_s`` each model's load.

    ``warm`` are loaded at the beginning.
    """

    name: BackendId
    kind: str
    models: Mapping[str, str]
    seconds: Mapping[str, float]
    load_s: float = 0.0
    warm: tuple[str, ...] = ()
    slots: int = 1
    keeps: int = 1
    weight: float = 1.0


def simulate(
    arrivals: Iterable[Arrival],
    machines: Sequence[Machine],
    policy: str,
    turns: Turns,
    *,
    model_load_s: float,
) -> Outcome:
    """Replay arrivals, in any order; ``turns`` are new, ``model_load_s`` is for loads never seen yet."""
    ordered = sorted(arrivals, key=lambda arrival: arrival.at_s)
    began_s = ordered[0].at_s if ordered else 0.0
    tenants = Tenants(arrival.tenant for arrival in ordered)
    replay = _Replay(machines, policy, turns, model_load_s, tenants, began_s)
    for arrival in ordered:
        replay.until(arrival.at_s)
        replay.arrive(arrival)
    replay.until(math.inf)
    return replay.outcome()


class _Run(Struct, kw_only=True, eq=False):
    arrival: Arrival
    state: "_State"
    slot: int
    own: str
    cold: bool
    began_s: float
    expected_s: float
    charged_s: float
    took_s: float


class _State:
    """A machine as it stands: what runs on which slot, and what has been learned of it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.learned = Learned(warm=machine.warm)
        self.runs: dict[int, _Run] = {}
        self.turn = 0
        self.busy_s = 0.0

    def gpu(self, now_s: float) -> Gpu:
        machine = self.machine
        return Gpu(
            name=machine.name,
            kind=machine.kind,
            models=machine.models,
            free=tuple(slot for slot in range(machine.slots) if slot not in self.runs),
            rests_s=tuple(still_s(run.began_s + run.expected_s - now_s) for run in self.runs.values()),
            keeps=machine.keeps,
            weight=machine.weight,
            turn=self.turn,
            learned=self.learned,
        )


class _Waiting:
    """A lane's tasks in line; ``since_s`` it has had work and not been served."""

    def __init__(self) -> None:
        self.tasks: deque[Arrival] = deque()
        self.units = 0.0
        self.since_s = 0.0

    def line(self, lane: Lane) -> Line | None:
        count = len(self.tasks)
        if not count:
            return None
        return Line(lane=lane, waiting=count, units=self.units / count, since=self.since_s)


class _Replay:
    def __init__(
        self,
        machines: Sequence[Machine],
        policy: str,
        turns: Turns,
        model_load_s: float,
        tenants: Tenants,
        began_s: float,
    ) -> None:
        self._states = {machine.name: _State(machine) for machine in machines}
        self._policy = policy
        self._turns = turns
        self._model_load_s = model_load_s
        self._lanes: dict[Lane, _Waiting] = {}
        self._changed: set[Lane] = set()
        self._ends: list[tuple[float, int, _Run]] = []
        self._done: list[_Run] = []
        self._count = 0
        self._tenants = tenants
        self._began_s = self._now_s = began_s

    def arrive(self, arrival: Arrival) -> None:
        waiting = self._lanes.setdefault(arrival.lane, _Waiting())
        if not waiting.tasks:
            waiting.since_s = arrival.at_s
        waiting.tasks.append(arrival)
        waiting.units += arrival.units
        self._changed.add(arrival.lane)
        self._tenants.wait(arrival.tenant, 1)
        self._serve()

    def until(self, now_s: float) -> None:
        """Let everything happen that ends before or at a time."""
        while self._ends and self._ends[0][0] <= now_s:
            at_s, _, run = heapq.heappop(self._ends)
            self._pass(at_s)
            self._end(run)
            self._serve()
        if now_s < math.inf:
            self._pass(now_s)

    def _pass(self, now_s: float) -> None:
        self._tenants.passed(now_s - self._now_s)
        self._now_s = now_s

    def _serve(self) -> None:
        while choice := self._choice():
            self._start(choice)

    def _choice(self) -> Choice | None:
        if all(len(s.runs) == s.machine.slots for s in self._states.values()):
            return None
        self._turns.admit({lane: self._lanes[lane].line(lane) for lane in self._changed})
        self._changed.clear()
        if not self._turns.any_wait:
            return None
        return match(
            self._turns,
            self._gpus(),
            lambda _: self._policy,
            now=self._now_s,
            model_load_s=self._model_load_s,
        )

    def _gpus(self) -> list[Gpu]:
        return [state.gpu(self._now_s) for state in self._states.values()]

    def _start(self, choice: Choice) -> None:
        waiting = self._lanes[choice.lane]
        arrival = waiting.tasks.popleft()
        waiting.units -= arrival.units
        self._changed.add(choice.lane)
        waiting.since_s = self._now_s
        self._turns.serve(choice.lane, choice.seconds)
        gpus = [gpu for gpu in self._gpus() if gpu.kind == choice.lane.kind]
        run = self._run(arrival, self._placed(choice, arrival, gpus), gpus, choice.seconds)
        state = run.state
        state.runs[run.slot] = run
        state.learned = replace(state.learned, warm=after(state.learned.warm, run.own, state.machine.keeps))
        self._count += 1
        state.turn = self._count
        self._tenants.wait(arrival.tenant, -1)
        self._tenants.run(arrival.tenant, 1)
        heapq.heappush(self._ends, (self._now_s + run.took_s, self._count, run))

    def _placed(self, choice: Choice, arrival: Arrival, gpus: Sequence[Gpu]) -> Gpu:
        """Give the GPU chosen, or with affinity, now that the ticket is there, the one of its user."""
        model = arrival.lane.model
        if self._policy == AFFINITY and arrival.user is not None:
            able = [gpu for gpu in gpus if gpu.free and runs_as(gpu, model, gpu.learned.warm)]
            return affine(arrival.user, able, model)
        return next(gpu for gpu in gpus if gpu.name == choice.backend)

    def _run(self, arrival: Arrival, gpu: Gpu, gpus: Sequence[Gpu], charged_s: float) -> _Run:
        estimates, warm = Estimates(gpus, self._model_load_s), gpu.learned.warm
        own = runs_as(gpu, arrival.lane.model, warm) or ""
        cold = is_cold(gpu, own, warm)
        machine = self._states[gpu.name].machine
        true_s = machine.seconds[own] * arrival.units * arrival.factor
        return _Run(
            arrival=arrival,
            state=self._states[gpu.name],
            slot=min(gpu.free),
            own=own,
            cold=cold,
            began_s=self._now_s,
            expected_s=estimates.load_s(gpu, own, warm) + estimates.run_s(gpu, own, arrival.units),
            charged_s=charged_s,
            took_s=true_s + (machine.load_s if cold else 0.0),
        )

    def _end(self, run: _Run) -> None:
        state, arrival = run.state, run.arrival
        del state.runs[run.slot]
        state.busy_s += run.took_s
        state.learned = learned(
            state.learned, run.own, arrival.units, run.took_s, cold=run.cold, keeps=state.machine.keeps
        )
        self._turns.settle(arrival.lane, run.charged_s, run.took_s)
        self._tenants.run(arrival.tenant, -1)
        self._done.append(run)

    def outcome(self) -> Outcome:
        span_s = self._now_s - self._began_s
        waits = [run.began_s - run.arrival.at_s for run in self._done]
        return Outcome(
            policy=self._policy,
            tasks=len(self._done),
            waiting=percentiles(waits),
            total=percentiles(wait + run.took_s for wait, run in zip(waits, self._done, strict=True)),
            utilisation={
                name: state.busy_s / (state.machine.slots * span_s) if span_s else 0.0
                for name, state in self._states.items()
            },
            loads=sum(run.cold for run in self._done),
            fairness=self._tenants.fairness(),
            eta_error=percentiles(abs(run.took_s - run.expected_s) for run in self._done),
            unserved=sum(len(waiting.tasks) for waiting in self._lanes.values()),
        )
