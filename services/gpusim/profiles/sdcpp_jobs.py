"""The job queue of an sd-server's native API: first in, first out, one worker.

A finished job is kept for the retention time, then known as expired for a while, then forgotten. Unlike
the real server's, its memory is bounded: instant jobs would fill it with pictures.
"""

import asyncio
import base64
import enum
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from services.gpusim.gpu import Gpu, JobFailedError
from services.gpusim.model import Job
from services.gpusim.painting import batch, paint
from services.gpusim.picture import Picture

MAX_PENDING = 64
MAX_FINISHED = 512
"""Of more finished jobs than these, the oldest expire before their time."""
MAX_EXPIRED = 4096
EXPIRED_S = 60.0
"""An expired job is remembered as such for this long at least."""


class Status(enum.StrEnum):
    """Where a job stands, in the words of the real server."""

    QUEUED = "queued"
    GENERATING = "generating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


PENDING = frozenset({Status.QUEUED, Status.GENERATING})


class NativeJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job. Times are Unix seconds."""

    id: str
    work: Job
    picture: Picture
    count: int
    image_format: str
    created: float
    status: Status = Status.QUEUED
    started: float | None = None
    completed: float | None = None
    images: tuple[str, ...] = ()
    """In base64."""
    error: str | None = None


class JobQueue:
    """The jobs of one server."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._jobs: dict[str, NativeJob] = {}
        self._expired: dict[str, float] = {}
        self._serial = 0
        self._arrived = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another job; the one that runs counts."""
        return sum(job.status in PENDING for job in self._jobs.values()) >= MAX_PENDING

    def add(self, work: Job, picture: Picture, count: int, image_format: str) -> NativeJob:
        """Queue an admitted job."""
        self._purge()
        now = self._gpu.clock()
        job = NativeJob(
            id=f"job_{int(now):x}_{self._serial:08x}",
            work=work,
            picture=picture,
            count=count,
            image_format=image_format,
            created=now,
        )
        self._serial += 1
        self._jobs[job.id] = job
        self._arrived.set()
        return job

    def find(self, job_id: str) -> NativeJob | None:
        """Look a job up that has not expired."""
        self._purge()
        return self._jobs.get(job_id)

    def has_expired(self, job_id: str) -> bool:
        """Whether there was such a job lately."""
        return job_id in self._expired

    def cancel(self, job: NativeJob) -> NativeJob:
        """Cancel a job that is queued."""
        self._gpu.withdraw(job.work)
        return self._finish(job, Status.CANCELLED, error="job cancelled by client")

    def document(self, job: NativeJob) -> dict[str, object]:
        """Describe a job as the real server does."""
        result = error = None
        if job.status is Status.COMPLETED:
            images = [{"index": at, "b64_json": image} for at, image in enumerate(job.images)]
            result = {"output_format": job.image_format, "images": images}
        if job.error is not None:
            code = "cancelled" if job.status is Status.CANCELLED else "generation_failed"
            error = {"code": code, "message": job.error}
        return {
            "id": job.id,
            "kind": "img_gen",
            "status": job.status,
            "created": int(job.created),
            "started": None if job.started is None else int(job.started),
            "completed": None if job.completed is None else int(job.completed),
            "queue_position": self._position(job),
            "result": result,
            "error": error,
        }

    async def run(self) -> None:
        """Work the queue off, until cancelled."""
        while True:
            queued = self._queued()
            if queued:
                await self._generate(queued[0])
                continue
            self._arrived.clear()
            await self._arrived.wait()

    async def _generate(self, job: NativeJob) -> None:
        job = replace(job, status=Status.GENERATING, started=self._gpu.clock())
        self._jobs[job.id] = job
        try:
            pictures = batch(job.picture, job.count)
            images = await paint(self._gpu, job.work, pictures, job.image_format)
        except JobFailedError as error:
            message = str(error) if error.out_of_memory else "generate_image returned no results"
            self._finish(job, Status.FAILED, error=message)
            return
        self._finish(job, Status.COMPLETED, images=images)

    def _finish(
        self, job: NativeJob, status: Status, *, images: Sequence[bytes] = (), error: str | None = None
    ) -> NativeJob:
        ended = replace(
            job,
            status=status,
            completed=self._gpu.clock(),
            images=tuple(base64.b64encode(image).decode() for image in images),
            error=error,
        )
        self._jobs[job.id] = ended
        return ended

    def _queued(self) -> list[NativeJob]:
        return [job for job in self._jobs.values() if job.status is Status.QUEUED]

    def _position(self, job: NativeJob) -> int:
        """Count from 1; 0 means not queued."""
        waiting = [queued.id for queued in self._queued()]
        return waiting.index(job.id) + 1 if job.id in waiting else 0

    def _purge(self) -> None:
        now, kept_s = self._gpu.clock(), self._gpu.options.retention_s
        finished = [(job, job.completed) for job in self._jobs.values() if job.completed is not None]
        surplus = len(finished) - MAX_FINISHED
        for index, (job, completed) in enumerate(finished):
            if index < surplus or now - completed >= kept_s:
                del self._jobs[job.id]
                self._expired[job.id] = now + max(kept_s, EXPIRED_S)
        while self._expired:
            oldest = next(iter(self._expired))
            if self._expired[oldest] > now and len(self._expired) <= MAX_EXPIRED:
                break
            del self._expired[oldest]
