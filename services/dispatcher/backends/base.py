"""The port to a GPU server: what an adapter is given, what it reports, what it promises.

The one rule: a call's reports end when, as far as the protocol can tell, the GPU is free again. A
client's timeout frees no GPU, so nothing here gives up waiting by itself; the caller stops the call and
goes on reading.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

from msgspec import Struct

from schemas.events import ErrorClass, TaskError
from schemas.ids import TaskId
from schemas.requests import Request

MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024


class Audio(Struct, frozen=True, kw_only=True):
    """A recording in the artifact store; ``open`` streams its ``size`` bytes anew at each call."""

    open: Callable[[], AsyncIterator[bytes]]
    size: int
    media_type: str
    filename: str


async def _always() -> bool:
    return True


class Job(Struct, frozen=True, kw_only=True):
    """One attempt as the backend needs it: ``request.seed`` is set, ``model`` in the backend's spelling.

    ``remote_id``: the attempt was begun by another dispatcher, and this is what the backend knows it by.
    A call then reads how it ends, and submits only what the lost one had not come to; a backend that does
    not know the id has lost it.
    ``may_go_on``: to be asked before each further request for GPU work; False when the slot is another's.
    """

    task_id: TaskId
    attempt: int
    request: Request
    model: str | None = None
    audio: Audio | None = None
    expected_s: float | None = None
    remote_id: str | None = None
    may_go_on: Callable[[], Awaitable[bool]] = _always


class Attached(Struct, frozen=True):
    """The backend accepted the job under an id by which it can be found again."""

    remote_id: str


class Progressed(Struct, frozen=True, kw_only=True):
    fraction: float
    step: int | None = None
    steps: int | None = None


class Previewed(Struct, frozen=True):
    """How the picture looks so far: the bytes of an image, as the backend sent them and unchecked."""

    image: bytes


class Output(Struct, frozen=True, kw_only=True):
    """Bytes that are to be stored, checked: an image decodes and has the size said here."""

    data: bytes
    media_type: str
    width: int | None = None
    height: int | None = None
    seed: int | None = None


class Finished(Struct, frozen=True, kw_only=True):
    outputs: tuple[Output, ...]
    text: str | None = None
    audio_s: float | None = None


class Failed(Struct, frozen=True, kw_only=True):
    """``retry_after_s`` is what an overloaded backend asked for."""

    error: TaskError
    retry_after_s: float | None = None


Report = Attached | Progressed | Previewed | Finished | Failed


class Call(Protocol):
    """One attempt at one backend.

    ``reports`` ends after exactly one Finished or Failed, raises nothing but CancelledError, and starts the
    attempt when it is first read. ``stop`` asks the backend to stop this attempt, as strongly as its
    protocol can, may be called at any time and any number of times, returns without waiting for the end,
    and raises nothing; the reports then still end by themselves.
    """

    def reports(self) -> AsyncIterator[Report]: ...

    async def stop(self) -> None: ...


class Ready(Struct, frozen=True):
    """The instance answers; ``models`` are the names it gives, empty where it does not say."""

    models: tuple[str, ...] = ()


class Loading(Struct, frozen=True):
    """It answers that it is not ready yet."""

    reason: str


class Misconfigured(Struct, frozen=True):
    """It answers and will not serve us: 401, 403, or it is some other kind of server."""

    reason: str


class Silent(Struct, frozen=True):
    """It accepted the connection and did not answer in time: busy or hung, only the caller can tell."""


class Refused(Struct, frozen=True):
    """No connection: not there, or still loading its model."""

    reason: str


Health = Ready | Loading | Misconfigured | Silent | Refused


class Adapter(Protocol):
    """Speaks one protocol with one backend; every implementation passes tests/conformance.

    ``resumes``: whether it can be given a job with a ``remote_id``.
    """

    @property
    def resumes(self) -> bool: ...

    def call(self, job: Job) -> Call: ...

    async def probe(self, timeout_s: float) -> Health:
        """Ask cheaply how the instance is; raises nothing."""
        ...

    async def idle(self, remote_id: str | None, task_id: TaskId | None = None) -> bool | None:
        """Say whether the attempt ``remote_id`` of that task, lost by another dispatcher, has left the GPU.

        None where the protocol cannot say, which includes an id that is not known. Raises nothing.
        """
        ...


def failed(error_class: ErrorClass, code: str, message: str, retry_after_s: float | None = None) -> Failed:
    """Shorten the adapters' most written expression; the message is cut to what an event may carry."""
    return Failed(
        error=TaskError(code=code, message=message[:2000], error_class=error_class),
        retry_after_s=retry_after_s,
    )
