"""What is said to a ComfyUI and how its answers read. Pure.

The one rule: a prompt that is neither in the queue nor in the history is lost, and never done.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from msgspec import Struct
from msgspec.structs import replace

from schemas import workflow
from schemas.events import ErrorClass
from schemas.ids import TaskId, derived_uuid
from schemas.requests import ImageRequest
from schemas.workflow import Workflow
from services.dispatcher.backends import images
from services.dispatcher.backends.base import Failed, Finished, Output, failed
from services.dispatcher.backends.classify import OK, Broken, Reply, Trouble, decoded, job_failed
from services.dispatcher.backends.polling import Unclear, unclear

SUBMIT: Final = "/prompt"
QUEUE: Final = "/queue"
INTERRUPT: Final = "/interrupt"
STATS: Final = "/system_stats"

INTERRUPTED: Final = "interrupted"
LOST: Final = "job_lost"
ENDS_OF_STOPPED: Final = frozenset({INTERRUPTED, LOST})
"""How what was cancelled ends: while it ran, and while it waited, which leaves no trace."""


class Prompt(Struct, frozen=True):
    """One entry of the queue: a graph with everything filled in."""

    id: str
    graph: dict[str, Any]  # Any: as in Workflow.graph


class File(Struct, frozen=True):
    """Where a picture lies; ``type`` is output, temp or input."""

    filename: str
    subfolder: str = ""
    type: str = "output"


class Entry(Struct, frozen=True):
    """What the history says of a prompt that has ended."""

    outputs: dict[str, Any] = {}  # Any: a node puts there what it likes
    status: dict[str, Any] | None = None  # Any: as above


class Waiting(Struct, frozen=True):
    """The ids in the queue: of what runs, and of what waits."""

    running: frozenset[str]
    pending: frozenset[str]

    def holds(self, remote_id: str) -> bool:
        """Whether a prompt of that attempt is there."""
        return any(of_attempt(prompt_id, remote_id) for prompt_id in self.running | self.pending)


class _Queue(Struct, frozen=True):
    queue_running: list[list[Any]]  # Any: number, id, graph and more
    queue_pending: list[list[Any]]  # Any: as above


class _Stats(Struct, frozen=True):
    system: dict[str, Any]  # Any: not read
    devices: list[Any]  # Any: not read


def remote_id(task_id: TaskId, attempt: int) -> str:
    """Give the id of an attempt's first prompt; the others differ in the last digit."""
    return prompt_ids(derived_uuid(f"{task_id}:{attempt}"), 1)[0]


def prompt_ids(of: str, count: int) -> tuple[str, ...]:
    """Name the prompts of the attempt ``of``, 16 at most."""
    return tuple(f"{of[:-1]}{number:x}" for number in range(count))


def of_attempt(prompt_id: str, remote_id: str) -> bool:
    return prompt_id[:-1] == remote_id[:-1]


def prompts(work: Workflow, request: ImageRequest, model: str | None, remote_id: str) -> tuple[Prompt, ...]:
    """Fill the graph: once where it has a place for ``n``, else for each picture with the next seed."""
    count = 1 if work.place("n") else request.n
    asked = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "width": request.width,
        "height": request.height,
        "steps": request.steps,
        "guidance": request.guidance,
        "sampler": request.sampler,
        "model": model,
        "n": request.n,
    }
    return tuple(
        Prompt(prompt_id, workflow.filled(work, {**asked, "seed": (request.seed or 0) + number}))
        for number, prompt_id in enumerate(prompt_ids(remote_id, count))
    )


def history_path(prompt_id: str) -> str:
    """Give the path of one entry; the history without an id is as long as the server is old."""
    return f"/history/{quote(prompt_id, safe='')}"


def cancel_path(prompt_id: str) -> str:
    return f"/api/jobs/{quote(prompt_id, safe='')}/cancel"


def view_path(file: File) -> str:
    query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
    return f"/view?{urlencode(query)}"


def socket_path(client_id: str) -> str:
    return f"/ws?{urlencode({'clientId': client_id})}"


def choices_path(work: Workflow) -> str | None:
    """Give where the names are that the ``model`` of a request may have, None where it has no place."""
    place = work.place("model")
    return place and f"/object_info/{quote(work.graph[place[0]]['class_type'], safe='')}"


def choices(body: bytes, work: Workflow) -> tuple[str, ...]:
    """Read those names; both forms in which a list of choices is given are known."""
    place = work.place("model")
    described = decoded(body, dict[str, dict[str, Any]])  # Any: whatever describes a node
    if place is None or described is None:
        return ()
    taken = described.get(work.graph[place[0]]["class_type"], {}).get("input", {})
    options: object = {**taken.get("required", {}), **taken.get("optional", {})}.get(place[1])
    match options:
        case [[*names], *_] | ["COMBO", {"options": [*names]}, *_]:
            return tuple(name for name in names if isinstance(name, str))
        case _:
            return ()


def is_comfyui(body: bytes) -> bool:
    """Whether that is what ``/system_stats`` answers."""
    return decoded(body, _Stats) is not None


def understood(answer: Reply | Broken, prompt_id: str) -> Entry | Unclear | None:
    """Read what the history says of a prompt; None while it does not know it."""
    if isinstance(answer, Broken) or answer.status != OK:
        return unclear(answer)
    entries = decoded(answer.body, dict[str, Entry])
    if entries is None:
        return Unclear(None, failed(ErrorClass.TRANSIENT, "bad_answer", "the history cannot be read"))
    return entries.get(prompt_id)


def waiting(answer: Reply | Broken) -> Waiting | None:
    """Read the queue; None for what is none."""
    queue = decoded(answer.body, _Queue) if isinstance(answer, Reply) and answer.status == OK else None
    if queue is None:
        return None
    return Waiting(
        *(
            frozenset(str(entry[1]) for entry in entries if len(entry) > 1)
            for entries in (queue.queue_running, queue.queue_pending)
        )
    )


def idle(answer: Reply | Broken, remote_id: str | None) -> bool | None:
    """Say by the queue whether that attempt no longer holds the GPU; an empty one says it of any."""
    if isinstance(answer, Broken):
        # A process that is gone has no queue; whoever is merely silent may be busy with it.
        return True if answer.trouble is Trouble.REFUSED else None if remote_id is None else False
    queue = waiting(answer)
    if queue is None:
        return None
    if remote_id is None:
        # What is there may be another client's.
        return None if queue.running | queue.pending else True
    return not queue.holds(remote_id)


def lost(reason: str) -> Failed:
    return failed(ErrorClass.LOST, LOST, reason)


def is_lost(seen: object) -> bool:
    """Whether that is the end of a prompt which the server does not know."""
    return isinstance(seen, Failed) and seen.error.code == LOST


def failure(entry: Entry) -> Failed | None:
    """Say why a prompt did not end well; None for one that did."""
    status = entry.status or {}
    for message in status.get("messages", ()):
        match message:
            case ["execution_error", {**said}]:
                return job_failed(_spoken(said))
            case ["execution_interrupted", *_]:
                return failed(ErrorClass.TRANSIENT, INTERRUPTED, "somebody interrupted it at the server")
            case _:
                continue
    return job_failed("ComfyUI gives no reason") if status.get("status_str") == "error" else None


def files(entry: Entry) -> tuple[File, ...]:
    """Name the pictures that were saved; those only shown where none was."""
    found = [
        file
        for output in entry.outputs.values()
        if isinstance(output, dict)
        for file in map(_file, output.get("images") or ())
        if file is not None
    ]
    saved = tuple(file for file in found if file.type == "output")
    return saved or tuple(file for file in found if file.type == "temp")


def picture(answer: Reply | Broken) -> bytes | Failed:
    """Read what ``/view`` answers."""
    if isinstance(answer, Reply):
        if answer.status == OK:
            return answer.body
        return lost(f"HTTP {answer.status}: the picture is not there any more")
    return failed(
        ErrorClass.TRANSIENT, answer.trouble.value, f"while fetching the picture: {answer.reason}"
    )


def result(pictures: Sequence[Sequence[bytes]], seed: int | None) -> Finished | Failed:
    """Check the pictures of each prompt, drawn from seeds that follow. Slow: to be run in a thread."""
    outputs: list[Output] = []
    for number, drawn in enumerate(pictures):
        found = images.finished(drawn, None)
        if isinstance(found, Failed):
            return found
        outputs += (replace(output, seed=(seed or 0) + number) for output in found.outputs)
    return Finished(outputs=tuple(outputs))


def _file(entry: object) -> File | None:
    match entry:
        case {"filename": str(filename), **rest}:
            return File(filename, str(rest.get("subfolder", "")), str(rest.get("type", "output")))
        case _:
            return None


def _spoken(said: Mapping[object, object]) -> str:
    where = f"{said.get('node_type', 'a node')} (node {said.get('node_id', '?')})"
    return f"{where}: {said.get('exception_type', 'error')}: {said.get('exception_message', '')}".strip()
