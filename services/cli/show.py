"""Documents and events as lines and rows for people.

The one rule: pure; text that came from elsewhere is shown without its control characters.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from schemas.counts import KindCounts
from schemas.task import FINAL, Status
from services.cli import standing

Json = dict[str, Any]  # Any: JSON of the api
Row = tuple[str, ...]

STATUS_AFTER: Final = {
    "task.scheduled": Status.SCHEDULED,
    "task.submitted": Status.QUEUED,
    "task.started": Status.RUNNING,
    "task.attached": Status.RUNNING,
    "task.attempt_failed": Status.RETRYING,
    "task.requeued": Status.QUEUED,
    "task.done": Status.DONE,
    "task.failed": Status.FAILED,
    "task.cancelled": Status.CANCELLED,
    "task.expired": Status.EXPIRED,
}
"""What a task is once an event has happened to it."""
PROGRESS: Final = "task.progress"
_PLAIN: Final = ("attempt", "backend", "reason", "by", "deadline", "retry_at", "due_at")
_PROMPT: Final = 48

TASKS: Final[Row] = ("ID", "KIND", "STATUS", "WHEN", "%", "PLACE", "ETA", "WHAT")
DEAD: Final[Row] = ("ID", "KIND", "ENDED", "BACKEND", "TRIES", "ERROR", "WHY")
BACKENDS: Final[Row] = (
    *("NAME", "KIND", "STATE", "CONDITION", "CIRCUIT", "BUSY", "MODELS"),
    *("PROTOCOL", "URL", "REASON"),
)
GPUS: Final[Row] = ("NAME", "KIND", "STATE", "CONDITION", "CIRCUIT", "BUSY", "MODELS", "REASON")
_COUNTED: Final = KindCounts.__struct_fields__
COUNTS: Final[Row] = tuple(name.upper() for name in _COUNTED)
QUEUES: Final[Row] = (
    *(
        "KIND",
        "MODEL",
        "WAITING",
        "SCHEDULED",
        "RETRYING",
        "RUNNING",
        "SLOTS",
        "OLDEST",
        "ETA",
        "OFF BY",
        "PAUSED",
    ),
)
PAST_QUEUES: Final[Row] = ("KIND", "MODEL", "WAITING", "SCHEDULED", "RETRYING", "RUNNING")
HISTORY: Final[Row] = ("SEQUENCE", "AFTER", "EVENT", "WHAT")


def clean(text: str) -> str:
    """Put a space where a terminal would see a command."""
    return "".join(character if character.isprintable() else " " for character in text)


def details(event: Json) -> str:
    """Give what is worth knowing of an event, as ``name=value``."""
    data: Json = event["data"]
    found = {name: data[name] for name in _PLAIN if data.get(name) is not None}
    if error := data.get("error"):
        found |= {"error": error["code"], "message": f'"{error["message"]}"'}
    if artifacts := data.get("artifacts"):
        found["artifacts"] = len(artifacts)
    if usage := data.get("usage"):
        found["run_s"] = round(usage["run_s"], 3)
    return clean(" ".join(f"{name}={value}" for name, value in found.items()))


def event_line(event: Json) -> str:
    return f"{event['time']} {event['task_id']} {event['type']} {details(event)}".rstrip()


def outcome(document: Json) -> str:
    """Say in one line how a task ended."""
    error = document.get("error")
    reason = f": {error['message']} ({error['code']})" if error else ""
    return clean(f"task {document['task_id']} is {document['status']}{reason}")


def stood(document: Json) -> str:
    """Say in one line how a task was, from its document as it was then."""
    return f"as of then it is {document['status']}, since sequence {document['sequence']}"


def summary(document: Json, url: str, now: datetime | None = None) -> list[str]:
    """Give a task's document as a page; ``now`` as for a row."""
    rows: list[Row] = [
        ("task", document["task_id"]),
        ("status", document["status"] + _progress(document, " ({})")),
        ("kind", f"{document['kind']}, {document['priority']} priority"),
        ("what", what(document, 10_000)),
    ]
    if stands := standing.sentence(document, now):
        rows.insert(2, ("line", stands))
    members = ("user", "submitted_at", "not_before", "started_at", "finished_at", "erased_at")
    rows += [
        (name.removesuffix("_at").replace("_", " "), document[name])
        for name in members
        if document.get(name)
    ]
    if document["tags"]:
        rows.append(("tags", ", ".join(document["tags"])))
    rows += [(f"attempt {attempt['attempt']}", _attempt(attempt)) for attempt in document["attempts"]]
    if error := document.get("error"):
        rows.append(("error", f"{error['message']} ({error['code']})"))
    if not document.get("erased_at"):
        rows += [("result", result(artifact, url)) for artifact in document["artifacts"]]
    if document.get("text"):
        rows.append(("text", document["text"]))
    return [f"{name:<10}  {clean(value)}".rstrip() for name, value in rows]


def batch(document: Json) -> list[str]:
    """Give a batch as a page: how many of its tasks are where."""
    counts = [f"{count} {status}" for status, count in document["counts"].items() if count]
    rows: list[Row] = [
        ("batch", document["batch_id"]),
        ("tasks", f"{document['size']}: {', '.join(counts)}"),
    ]
    members = ("user", "submitted_at", "finished_at")
    rows += [(name.removesuffix("_at"), document[name]) for name in members if document[name]]
    return [f"{name:<10}  {clean(value)}".rstrip() for name, value in rows]


def result(artifact: Json, url: str) -> str:
    return f"{url}{artifact['url']} ({artifact['media_type']}, {artifact['bytes']:,} bytes)"


def _attempt(attempt: Json) -> str:
    error = attempt.get("error")
    if error:
        return f"{attempt['backend']}: {error['message']} ({error['code']})"
    return f"{attempt['backend']}{'' if attempt['finished_at'] else ', running'}"


def _progress(document: Json, form: str = "{}") -> str:
    progress = document.get("progress")
    if not progress or document["status"] in FINAL:
        return ""
    return form.format(f"{'~' if progress.get('estimated') else ''}{progress['fraction']:.0%}")


def what(document: Json, most: int = _PROMPT) -> str:
    """Name a task by what was asked for."""
    request = document.get("request") or {}
    text = clean(request.get("prompt") or request.get("artifact") or "")
    return text if len(text) <= most else f"{text[: most - 1]}…"


def moment(text: str | None, now: datetime | None) -> str:
    """Give a time as it came, or where ``now`` is given as how long ago it was."""
    if not text or now is None:
        return text or ""
    return standing.span((now - datetime.fromisoformat(text)).total_seconds())


def task_row(document: Json, now: datetime | None = None) -> Row:
    """Give a task's row; ``now``: for a person, who wants to know how long ago."""
    return (
        document["task_id"],
        document["kind"],
        document["status"],
        moment(document["submitted_at"], now),
        _progress(document),
        standing.place(document),
        standing.eta(document, now),
        what(document),
    )


def dead_row(document: Json, now: datetime | None = None) -> Row:
    """Give the row of a task that has failed: where, after how many tries, and why."""
    error, attempts = document.get("error") or {}, document["attempts"]
    return (
        document["task_id"],
        document["kind"],
        moment(document["finished_at"], now),
        clean(attempts[-1]["backend"]) if attempts else "",
        str(len(attempts)),
        error.get("code", ""),
        clean(error.get("message", "")),
    )


def history_rows(events: Sequence[Json]) -> list[Row]:
    if not events:
        return []
    first = datetime.fromisoformat(events[0]["time"])
    return [
        (
            str(event["sequence"]),
            f"+{(datetime.fromisoformat(event['time']) - first).total_seconds():.3f} s",
            event["type"],
            details(event),
        )
        for event in events
    ]


def backend_row(backend: Json) -> Row:
    *first, reason = gpu_row(backend)
    return (*first, backend["protocol"] or "unknown", clean(backend["url"]), reason)


def gpu_row(backend: Json) -> Row:
    """Give what matters of a backend while one looks on."""
    return (
        clean(backend["name"]),
        backend["kind"],
        backend["wanted"],
        backend["condition"],
        backend["circuit"],
        f"{len(backend['running'])}/{backend['slots']}",
        clean(", ".join(backend["models"]) or "any"),
        clean(backend["reason"] or ""),
    )


def backend_line(backend: Json) -> str:
    """Say in one line how a backend is."""
    running = len(backend["running"])
    busy = f" and runs {running} task{'s'[: running != 1]}" if running else ""
    return clean(f"{backend['name']} is {backend['wanted']}{busy}")


def pause_line(kind: str, held: Json) -> str:
    queue = kind if held["model"] is None else f"{kind} {held['model']}"
    reason = f": {held['reason']}" if held["reason"] else ""
    return clean(f"{queue} is paused since {held['at']}{reason}")


def queue_row(queue: Json, now: datetime | None = None) -> Row:
    counts = ("waiting", "scheduled", "retrying", "running", "slots")
    return (
        queue["kind"],
        clean(queue["model"]),
        *(str(queue[name]) for name in counts),
        moment(queue["oldest_at"], now),
        "" if queue.get("eta_s") is None else standing.span(queue["eta_s"]),
        standing.error(queue),
        _paused(queue["paused"], now),
    )


def counts_row(counts: Json) -> Row:
    return tuple(str(counts[name]) for name in _COUNTED)


def past_queue_row(queue: Json) -> Row:
    counts = ("waiting", "scheduled", "retrying", "running")
    return (queue["kind"], clean(queue["model"]), *(str(queue[name]) for name in counts))


def _paused(held: Json | None, now: datetime | None) -> str:
    return clean(f"{moment(held['at'], now)} {held['reason'] or ''}".rstrip()) if held else ""


def aligned(head: Row, rows: Iterable[Row]) -> list[str]:
    """Put rows under their heads, for whoever reads a pipe; nothing is cut off."""
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
