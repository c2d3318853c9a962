"""When to ask for a job's state again, and when to stop asking. Pure.

The one rule: asking seldom costs GPU time after the end, so the gap is a share of the time already run.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from schemas.events import ErrorClass
from services.dispatcher.backends.base import Failed, failed
from services.dispatcher.backends.classify import Broken, Reply, Trouble, no_success

MAX_REFUSALS: Final = 3
PATIENCE_S: Final = 10.0

_NEAR_THE_END: Final = 0.8


def next_poll(elapsed_s: float, expected_s: float | None) -> float:
    """Give the seconds until the next question, ``elapsed_s`` after the job was accepted.

    The end is noticed within 2 % of the time run (or 20 ms); where an end is expected, within 1 %
    (or 10 ms) from 80 % of that on, and within 10 % (or 20 ms) when it comes earlier.
    """
    if expected_s is None or expected_s <= 0:
        return _within(0.02, 0.02 * elapsed_s, 1.0)
    near_s = _NEAR_THE_END * expected_s
    if elapsed_s < near_s:
        return min(near_s - elapsed_s, _within(0.02, 0.1 * elapsed_s, 10.0))
    return _within(0.01, 0.01 * elapsed_s, 0.25)


def _within(low: float, value: float, high: float) -> float:
    return max(low, min(value, high))


class Drought(Struct, frozen=True):
    """Questions in a row that brought no state: since when, and how many connections were refused."""

    since: float | None = None
    refusals: int = 0


class Unclear(Struct, frozen=True):
    """An exchange that says nothing of the job, and what to report when that lasts too long."""

    trouble: Trouble | None
    failure: Failed


def unclear(answer: Reply | Broken) -> Unclear:
    """Take in an answer that no job's state can be read from."""
    match answer:
        case Broken():
            failure = failed(ErrorClass.TRANSIENT, Trouble.LOST.value, f"while polling: {answer.reason}")
            return Unclear(answer.trouble, failure)
        case Reply():
            return Unclear(None, no_success(answer))


def without_answer(drought: Drought, trouble: Trouble | None, now: float) -> Drought:
    """Count one more; ``trouble`` is None for an answer that makes no sense.

    Silence is not counted, it even starts anew: who accepts connections lives, and busy is not dead.
    """
    if trouble is Trouble.SILENT:
        return Drought()
    refusals = drought.refusals + (trouble is Trouble.REFUSED)
    return replace(drought, since=now if drought.since is None else drought.since, refusals=refusals)


def hopeless(drought: Drought, now: float) -> bool:
    """Whether the job is to be given up: its process is gone, or the server makes no sense for long."""
    lasted_s = 0.0 if drought.since is None else now - drought.since
    return drought.refusals >= MAX_REFUSALS or lasted_s > PATIENCE_S
