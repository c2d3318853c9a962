"""The books of a simulated server: each job, and the counts of all.

Synchronous and without a clock: every entry is made with the time it happened.
"""

from msgspec.structs import replace

from services.gpusim.model import Counts, Job, Outcome, ProfileName, Stats

REMEMBERED = 200
"""How many of the last jobs are kept."""


class Ledger:
    """What happened to the jobs since the server came up."""

    def __init__(self, profile: ProfileName, model: str, now: float) -> None:
        self._profile = profile
        self._model = model
        self.since = now
        self._counts = Counts()
        self._jobs: dict[int, Job] = {}
        self._running: Job | None = None
        self._max_waiting = 0
        self._busy_s = 0.0

    @property
    def next_id(self) -> int:
        """The id of the job that will come next; ids count from 0."""
        return self._counts.received

    def admit(self, job: Job) -> Job:
        """Enter a job that waits for its turn."""
        self._receive(job)
        present = self._counts.waiting + self._counts.running
        self._max_waiting = max(self._max_waiting, present)
        return job

    def refuse(self, job: Job) -> None:
        """Enter a job that was turned away."""
        self._receive(job)
        self.close(job, Outcome.REFUSED, job.received_at)

    def start(self, job: Job, now: float) -> Job:
        """Enter that the job got the GPU."""
        running = replace(job, started_at=now, outcome=Outcome.RUNNING)
        self._counts = replace(self._counts, started=self._counts.started + 1)
        self._running = running
        self._remember(running)
        return running

    def close(self, job: Job, outcome: Outcome, now: float) -> None:
        """Enter how the job ended; each final outcome has its count."""
        name = outcome.value
        self._counts = replace(self._counts, **{name: getattr(self._counts, name) + 1})
        if job.started_at is not None:
            self._busy_s += now - job.started_at
            self._running = None
        self._remember(replace(job, ended_at=now, outcome=outcome))

    def stats(self, now: float) -> Stats:
        """Sum up, the running job's time included."""
        started_at = None if self._running is None else self._running.started_at
        return Stats(
            profile=self._profile,
            model=self._model,
            jobs=self._counts,
            running=self._counts.running,
            waiting=self._counts.waiting,
            max_waiting=self._max_waiting,
            busy_s=self._busy_s + (0.0 if started_at is None else now - started_at),
            since_s=now - self.since,
        )

    def jobs(self) -> list[Job]:
        """Give the last jobs, oldest first."""
        return list(self._jobs.values())

    def _receive(self, job: Job) -> None:
        self._counts = replace(self._counts, received=self._counts.received + 1)
        self._jobs[job.id] = job
        if len(self._jobs) > REMEMBERED:
            del self._jobs[next(iter(self._jobs))]

    def _remember(self, job: Job) -> None:
        if job.id in self._jobs:
            self._jobs[job.id] = job
