"""The one GPU of a simulated server: its queue and its faults.

Whoever wants GPU work is admitted, takes its turn, and works inside it. There is no other way, so
one job runs at a time and the counts are true.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from msgspec.structs import replace

from services.gpusim.ledger import Ledger
from services.gpusim.model import (
    CRASHED,
    OUT_OF_MEMORY,
    SLOWDOWN,
    Fault,
    Job,
    Options,
    Outcome,
    Script,
    Stats,
    drawn_seed,
    fails_by_chance,
    loaded_with,
    next_fault,
)

PROMPT_KEPT = 2000
"""Of a longer prompt the rest is not remembered."""


class JobFailedError(Exception):
    """The GPU gave up on this job: answer with the server error of the profile."""

    def __init__(self, *, out_of_memory: bool) -> None:
        super().__init__(OUT_OF_MEMORY if out_of_memory else "simulated server error")
        self.out_of_memory = out_of_memory


class Gpu:
    """One job at a time, first come first served.

    `clock` gives Unix seconds and never steps back. `die` ends the process with a status; one that
    returns must have the server stopped, because a crashed job does nothing any more.
    """

    def __init__(
        self,
        options: Options,
        models: Sequence[str],
        clock: Callable[[], float],
        die: Callable[[int], object],
    ) -> None:
        self.options = options
        self.clock = clock
        self.ledger = Ledger(options.profile, models[0], clock())
        self.current: Turn | None = None
        self._loaded = tuple(models[: options.keeps])
        self._loads = 0
        self._die = die
        self._lock = asyncio.Lock()
        self._released = asyncio.Event()
        self._scripts: tuple[Script, ...] = ()

    @property
    def scripts(self) -> tuple[Script, ...]:
        """The faults that wait for a job."""
        return self._scripts

    def stats(self) -> Stats:
        """Sum up what happened so far."""
        return replace(self.ledger.stats(self.clock()), loads=self._loads, loaded=self._loaded)

    def script(self, script: Script) -> None:
        """Give the next jobs a fault, after those that were scripted before."""
        self._scripts = (*self._scripts, script)

    def clear(self) -> None:
        """Forget the faults that wait, and let hanging jobs go on."""
        self._scripts = ()
        self._released.set()
        self._released = asyncio.Event()

    def draw_seed(self) -> int:
        """Choose a seed for the job that comes next."""
        return drawn_seed(self.options, self.ledger.next_id)

    def admit(
        self,
        *,
        prompt: str | None = None,
        digest: str | None = None,
        seed: int | None = None,
        model: str | None = None,
    ) -> Job | None:
        """Take a job in; None when its fault is that the server is busy."""
        fault, self._scripts = next_fault(self._scripts)
        if fault is None and fails_by_chance(self.options, self.ledger.next_id):
            fault = Script(mode=Fault.HTTP500)
        job = Job(
            id=self.ledger.next_id,
            prompt=None if prompt is None else prompt[:PROMPT_KEPT],
            digest=digest,
            seed=seed,
            model=model,
            fault=fault,
            received_at=self.clock(),
        )
        if fault is not None and fault.mode is Fault.BUSY:
            self.ledger.refuse(job)
            return None
        return self.ledger.admit(job)

    def turn_away(self, prompt: str) -> None:
        """Count a job that the profile has no room for; it uses up no fault."""
        kept = prompt[:PROMPT_KEPT]
        self.ledger.refuse(Job(id=self.ledger.next_id, prompt=kept, received_at=self.clock()))

    def withdraw(self, job: Job) -> None:
        """Drop a job that has not had its turn."""
        self.ledger.close(job, Outcome.CANCELLED, self.clock())

    @asynccontextmanager
    async def turn(self, job: Job) -> AsyncIterator["Turn"]:
        """Wait for the GPU and hold it; how the block ends is how the job ended."""
        try:
            await self._lock.acquire()
        except asyncio.CancelledError:
            self.withdraw(job)
            raise
        running = self.ledger.start(job, self.clock())
        outcome = Outcome.INTERRUPTED
        self.current = turn = Turn(running, self)
        try:
            await self._load(job.model)
            turn.loading = False
            yield turn
            outcome = Outcome.INTERRUPTED if turn.interrupted else Outcome.DONE
        except Exception:
            outcome = Outcome.FAILED
            raise
        finally:
            self.current = None
            self.ledger.close(running, outcome, self.clock())
            self._lock.release()

    async def _load(self, model: str | None) -> None:
        """Have this model in memory, which takes its time unless it is there already."""
        if model is None:
            return
        if model not in self._loaded:
            await asyncio.sleep(self.options.load_s)
            self._loads += 1
        self._loaded = loaded_with(self._loaded, model, self.options.keeps)

    async def hang(self, seconds: float | None) -> None:
        """Wait until `clear` is called, or for so long."""
        released = self._released
        try:
            async with asyncio.timeout(seconds):
                await released.wait()
        except TimeoutError:
            return

    async def crash(self) -> None:
        """End the process."""
        self._die(CRASHED)
        await asyncio.Event().wait()


class Turn:
    """The GPU in the hands of one job: `loading` its model, then after so many steps, `step`."""

    def __init__(self, job: Job, gpu: Gpu) -> None:
        self.job = job
        self.loading = True
        self.step = 0
        self.interrupted = False
        self._fault = job.fault
        self._gpu = gpu
        self._began = gpu.clock()

    async def work(self, durations_s: Sequence[float]) -> None:
        """Take these steps. Late wake-ups are made up for, so their sum is true.

        Whoever sets `interrupted` has them end after the step that is under way.
        """
        due = self._gpu.clock()
        for duration_s in durations_s:
            if self.interrupted:
                return
            due += duration_s
            await asyncio.sleep(max(0.0, due - self._gpu.clock()))
            self.step += 1

    async def stumble(self) -> None:
        """Let the fault of this job strike here, in its middle.

        Raises JobFailedError where the fault ends the job.
        """
        if self._fault is None:
            return
        match self._fault.mode:
            case Fault.HTTP500:
                raise JobFailedError(out_of_memory=False)
            case Fault.OOM:
                raise JobFailedError(out_of_memory=True)
            case Fault.HANG:
                await self._gpu.hang(self._fault.seconds)
            case Fault.CRASH:
                await self._gpu.crash()
            case Fault.SLOW | Fault.GARBAGE | Fault.REFUSE | Fault.BUSY:
                pass  # SLOW and GARBAGE strike at the end; the others never get here

    async def drag(self) -> None:
        """Take longer than the work did, if that is the fault of this job."""
        if self._fault is not None and self._fault.mode is Fault.SLOW:
            worked_s = self._gpu.clock() - self._began
            extra_s = self._fault.seconds
            await asyncio.sleep(worked_s * (SLOWDOWN - 1) if extra_s is None else extra_s)

    @property
    def spoiled(self) -> bool:
        """Whether the result must be garbage."""
        return self._fault is not None and self._fault.mode is Fault.GARBAGE
