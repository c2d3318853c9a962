"""What a simulated GPU server is told, and what it tells: options, faults, step times, statistics.

Everything here is pure: chance comes from a seed and a counter, time is an argument.
"""

import enum
import hashlib
import math
import statistics
from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]

UNIT_AREA = 512 * 512
"""A step of a picture of this many pixels takes `Options.step_ms` on average."""

SLOWDOWN = 10
"""How many times longer a job takes under the fault `slow` when no seconds are given."""

REFUSE_S = 5.0
"""How long connections are refused when no seconds are given."""

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 4.00 GiB."

CRASHED = 137
"""The exit status of a crash: that of a process killed by SIGKILL."""

_NORMAL = statistics.NormalDist()


class ProfileName(enum.StrEnum):
    """Which real server is imitated."""

    SDCPP = "sdcpp"
    """stable-diffusion.cpp `sd-server`."""
    OPENAI = "openai"
    """vLLM-Omni's image server."""
    WHISPER = "whisper"
    """speaches; the transcriptions are real."""
    WHISPERCPP = "whispercpp"
    """whisper.cpp's `whisper-server`; real ones as well."""
    WHISPER_ASR = "whisper_asr"
    """whisper-asr-webservice; real ones as well."""
    A1111 = "a1111"
    """AUTOMATIC1111's web UI, or Forge."""
    KOBOLDCPP = "koboldcpp"
    """The same routes without progress and interruption."""
    COMFYUI = "comfyui"
    """ComfyUI."""
    COMFYUI_OLD = "comfyui_old"
    """One that cannot cancel a job by its id, and interrupts whatever runs."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one simulated server behaves. It has one GPU, which runs one job at a time."""

    profile: ProfileName
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    """0 takes a free port."""
    models: tuple[str, ...] = ()
    """Names to show; none means the profile's own."""
    step_ms: Annotated[float, msgspec.Meta(ge=0, le=3_600_000)] = 40.0
    """Mean time of a step at 512x512; 0 makes jobs instant. Transcriptions take their real time."""
    sigma: Annotated[float, msgspec.Meta(ge=0, le=3)] = 0.15
    """Spread of the log-normal step time; the mean does not depend on it."""
    startup_s: Seconds = 0.0
    """Nothing listens for so long, as while a real server loads its model."""
    load_s: Seconds = 0.0
    """How much longer a job takes whose model is not loaded."""
    keeps: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """So many models stay loaded, those that were used last; at the start the first ones are."""
    seed: int = 0
    fail_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """This share of the jobs ends with the profile's server error."""
    api_key: str | None = None
    """When given, requests need it: as their Bearer token, or as `user:password` by HTTP Basic."""
    retention_s: Seconds = 600.0
    """How long an sd-server keeps a finished job."""
    previews: bool = True
    """Whether a web UI or a ComfyUI shows what it draws; the real ones may be told not to."""


class Fault(enum.StrEnum):
    """What can go wrong on purpose. Each but REFUSE is used up by one of the next jobs."""

    HTTP500 = "http500"
    """The job ends with a server error."""
    OOM = "oom"
    """The job ends with an error that speaks of CUDA's memory."""
    HANG = "hang"
    """The job keeps the GPU until it is released, or for `seconds`; then it ends well."""
    SLOW = "slow"
    """The job takes `seconds` longer, or ten times as long."""
    GARBAGE = "garbage"
    """The job succeeds, but what it gives cannot be decoded."""
    REFUSE = "refuse"
    """Connections are refused for `seconds`, from now on."""
    BUSY = "busy"
    """The job is turned away."""
    CRASH = "crash"
    """The process dies in the middle of the job."""


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault for the next `count` jobs. Jobs take their faults in the order of arrival."""

    mode: Fault
    count: Count = 1
    seconds: Seconds | None = None


def next_fault(scripts: tuple[Script, ...]) -> tuple[Script | None, tuple[Script, ...]]:
    """Give the arriving job its fault, and what is left for those after it."""
    if not scripts:
        return None, ()
    first, rest = scripts[0], scripts[1:]
    if first.count > 1:
        return first, (msgspec.structs.replace(first, count=first.count - 1), *rest)
    return first, rest


def chance(seed: int, *counters: int | str) -> float:
    """Draw a number in the open interval (0, 1); the same arguments draw the same number."""
    text = ":".join(str(part) for part in (seed, *counters))
    drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest())
    return (drawn + 0.5) / 2**48


def step_times_s(options: Options, job: int, area: int, steps: int) -> list[float]:
    """How long each step of that job takes: log-normal, with a mean that ignores sigma."""
    mean_s = options.step_ms / 1000 * area / UNIT_AREA
    if not mean_s:
        return []
    shift = options.sigma**2 / 2
    return [
        mean_s * math.exp(options.sigma * _NORMAL.inv_cdf(chance(options.seed, job, step)) - shift)
        for step in range(steps)
    ]


def loaded_with(loaded: tuple[str, ...], model: str, keeps: int) -> tuple[str, ...]:
    """Name the models that are loaded once this one is used; the one that was used last comes first."""
    return (model, *(other for other in loaded if other != model))[:keeps]


def fails_by_chance(options: Options, job: int) -> bool:
    """Whether that job belongs to the share that fails."""
    return chance(options.seed, job, "fails") < options.fail_rate


def drawn_seed(options: Options, job: int) -> int:
    """Choose a 31-bit seed for a request that left it to the server."""
    return int(chance(options.seed, job, "seed") * 2**31)


class Outcome(enum.StrEnum):
    """Where a job stands, or how it ended."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Ended while it ran: the client went away or interrupted it, or the server stops."""
    CANCELLED = "cancelled"
    """Ended before it ran."""
    REFUSED = "refused"
    """Never taken in."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One request for GPU work, as it is remembered. Times are Unix seconds."""

    id: int
    prompt: str | None = None
    digest: str | None = None
    """SHA-256 of the file that came with it."""
    seed: int | None = None
    model: str | None = None
    """What it needs loaded; None for the one that always is."""
    fault: Script | None = None
    received_at: float
    started_at: float | None = None
    ended_at: float | None = None
    outcome: Outcome = Outcome.WAITING


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs so far.

    What was received was refused, cancelled, started, or waits; what was started is done, failed,
    interrupted, or runs.
    """

    received: int = 0
    refused: int = 0
    cancelled: int = 0
    started: int = 0
    done: int = 0
    failed: int = 0
    interrupted: int = 0

    @property
    def running(self) -> int:
        """How many jobs hold the GPU: none or one."""
        return self.started - self.done - self.failed - self.interrupted

    @property
    def waiting(self) -> int:
        """How many jobs were taken in and have not had their turn."""
        return self.received - self.refused - self.cancelled - self.started


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What `GET /_sim/stats` answers."""

    profile: ProfileName
    model: str
    jobs: Counts
    running: int
    waiting: int
    max_waiting: int
    """The most jobs that were here at once, the running one included: 1 proves one at a time."""
    busy_s: float
    """For how long the GPU has been held by jobs."""
    since_s: float
    """For how long the server has been up."""
    loads: int = 0
    """How often a model was loaded since the start."""
    loaded: tuple[str, ...] = ()
    """The models that are, the one that was used last first."""
