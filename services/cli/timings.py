"""How long each attempt of a task waited and ran, and what came of it, for people.

The one rule: pure, and from the task's document alone.
"""

from datetime import datetime
from typing import Any, Final

from schemas.task import FINAL
from services.cli.show import Row, clean

Json = dict[str, Any]  # Any: JSON of the api

ATTEMPTS: Final[Row] = ("ATTEMPT", "BACKEND", "WAITED", "RAN", "OUTCOME")
_DAY_S: Final = 86_400
_HOUR_S: Final = 3600
_MINUTE_S: Final = 60
_SHORT_S: Final = 10


def rows(document: Json, now: datetime | None = None) -> list[Row]:
    """Give a row for each attempt; ``now``: until when one has run that goes on, where that matters."""
    made: list[Row] = []
    ready = max(
        filter(None, (_time(document["submitted_at"]), _time(document["not_before"]))), default=None
    )
    for number, attempt in enumerate(document["attempts"], 1):
        started, finished = _time(attempt["started_at"]), _time(attempt["finished_at"])
        last = number == len(document["attempts"])
        made.append(
            (
                str(attempt["attempt"]),
                clean(attempt["backend"]),
                _between(ready, started),
                _between(started, finished or now),
                _outcome(attempt, document["status"] if last else ""),
            )
        )
        ready = finished
    return made


def lasting(seconds: float) -> str:
    """Give a length of time as it is read: 0.42 s, 12 s, 1 min 5 s, 2 h 3 min, 3 d 4 h."""
    if seconds < _SHORT_S:
        return f"{max(0.0, seconds):.2f} s"
    whole = int(seconds)
    for large, small, size, part in (
        ("d", "h", _DAY_S, _HOUR_S),
        ("h", "min", _HOUR_S, _MINUTE_S),
        ("min", "s", _MINUTE_S, 1),
    ):
        if whole >= size:
            return f"{whole // size} {large} {whole % size // part} {small}"
    return f"{whole} s"


def _between(start: datetime | None, end: datetime | None) -> str:
    return lasting((end - start).total_seconds()) if start and end else ""


def _outcome(attempt: Json, status: str) -> str:
    """Say what came of an attempt; ``status`` is the task's, where it is the last."""
    if error := attempt["error"]:
        return str(error["code"])
    if not attempt["finished_at"]:
        return "running"
    return status.lower() if status in FINAL else "handed back"


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
