"""How a command ends: exit codes, and the one line that says why and what to do.

The one rule: pure; what is printed is decided here, and who prints it is ``running``.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import msgspec
from msgspec import Struct

from schemas.errors import Code, TaskfoldError


class Exit(IntEnum):
    DONE = 0
    TASK = 1
    USAGE = 2
    REFUSED = 3
    AWAY = 4
    INTERRUPTED = 130
    PIPE = 141


_AWAY: Final = frozenset({Code.NATS_AWAY, Code.OUTCOME_UNKNOWN, Code.SHUTTING_DOWN, Code.READ_MODEL_AWAY})
_GATEWAY: Final = frozenset({502, 503, 504})
_SHOWN: Final = 8


class EndError(TaskfoldError):
    """The command cannot go on; the text is one line. ``code`` is the api's, where it refused."""

    def __init__(self, exit_code: Exit, line: str, code: str = "") -> None:
        super().__init__(line)
        self.exit_code = exit_code
        self.code = code


class AwayError(EndError):
    """The api cannot be reached, or can do nothing just now: worth another try."""

    def __init__(self, line: str) -> None:
        super().__init__(Exit.AWAY, line)


class _Problem(Struct, frozen=True):
    """A problem document, as far as it is shown; of a newer api too, so nothing is required."""

    code: str = ""
    detail: str = ""
    member: str | None = None
    task_id: str | None = None
    allowed: Sequence[str] | None = None


def unreachable(url: str, reason: str) -> AwayError:
    return AwayError(
        f"cannot reach {url} ({reason}); start one with `taskfold up`, "
        "or name another with --url or TASKFOLD_URL"
    )


def refusal(status: int, body: bytes, url: str) -> EndError:
    """Turn an answer that is no success into the error that ends the command."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = _Problem()
    if not problem.code:
        line = f"{url} answered {status}, and not as a taskfold api does; check --url or TASKFOLD_URL"
        return AwayError(line) if status in _GATEWAY else EndError(Exit.REFUSED, line)
    line = _line(problem)
    return AwayError(line) if problem.code in _AWAY else EndError(Exit.REFUSED, line, problem.code)


def _line(problem: _Problem) -> str:
    parts = [f"{problem.detail or 'refused'} ({problem.code}"]
    if problem.member:
        parts.append(f", member {problem.member}")
    parts.append(")")
    if problem.allowed and not all(name in problem.detail for name in problem.allowed):
        more = ", …" if len(problem.allowed) > _SHOWN else ""
        parts.append(f"; allowed: {', '.join(problem.allowed[:_SHOWN])}{more}")
    if problem.code == Code.OUTCOME_UNKNOWN and problem.task_id:
        parts.append(f"; see whether it is there: taskfold get {problem.task_id}")
    elif problem.code in _AWAY or problem.code in (Code.QUEUE_FULL, Code.STORAGE_FULL):
        parts.append("; try again in a moment")
    return " ".join("".join(parts).split())
