"""Where a task stands, for people: its place in line, why it waits, and when it should be done.

The one rule: pure; an api that does not say it yet leaves the cells empty.
"""

from datetime import datetime
from typing import Any, Final

Json = dict[str, Any]  # Any: JSON of the api

_WAITS: Final = {
    "waiting_for_slot": "waits for a GPU",
    "paused": "its queue is paused",
    "no_backend": "no GPU in service has its model",
    "tenant_cap": "its tenant runs as many as it may",
    "retry_delay": "waits before the next try",
}
_USUAL: Final = frozenset({"waiting_for_slot", "running", "scheduled"})


def span(seconds: float) -> str:
    """Give a length of time in its largest unit, at least 0 s."""
    whole = max(0, int(seconds))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def place(document: Json) -> str:
    """Give a task's place in line, and what else than that keeps it from a GPU."""
    queue = document.get("queue") or {}
    why = queue.get("why", "")
    parts = (str(queue["position"]) if queue.get("position") else "", "" if why in _USUAL else why)
    return " ".join(part for part in parts if part)


def eta(document: Json, now: datetime | None) -> str:
    """Give when a task should be done; where ``now`` is given, in how long that is."""
    at = (document.get("queue") or {}).get("eta_at")
    if not at or now is None:
        return at or ""
    return span((datetime.fromisoformat(at) - now).total_seconds())


def sentence(document: Json, now: datetime | None) -> str:
    """Say all of it in a line, nothing of a task that has ended."""
    queue = document.get("queue") or {}
    when = eta(document, now)
    parts = (
        f"place {queue['position']}" if queue.get("position") else "",
        _WAITS.get(queue.get("why", ""), ""),
        f"done {'in about' if now else 'at'} {when}" if when else "",
    )
    return ", ".join(part for part in parts if part)


def error(queue: Json) -> str:
    """Say by how much the times were off that tasks of a queue were given, for half of them."""
    found = queue.get("eta_error")
    return f"{found['median']:.0%}" if found else ""
