"""A task once more: what its submission said, with what is to be different this time.

The one rule: pure; what is not named stays, the seed too. Deadlines have the same length and count anew.
"""

from typing import Any, Final

import msgspec

from schemas import intake
from schemas.checking import Raw, check
from schemas.errors import Code, RejectedError
from schemas.ids import TaskId
from schemas.intake import Common, Intake
from schemas.requests import AnySubmission, Instant

MEMBERS: Final = ("request", *Common.__struct_fields__)
_TENTH: Final = 0.1


def changes(raw: Raw) -> Raw:
    """Check what does not depend on the task: which members there are, and the common ones."""
    request = raw.get("request", {})
    if not isinstance(request, dict):
        raise RejectedError(Code.WRONG_TYPE, "request is an object", member="request")
    common = {name: value for name, value in raw.items() if name != "request" and value is not None}
    check(Common, common, also=frozenset({"request"}))
    return raw


def again(made: AnySubmission, origin: TaskId, submitted_at: Instant | None, changed: Raw) -> Intake:
    """Give the body that submits a task again. RejectedError where it does not hold any more.

    ``changed``: members of ``request`` and common ones; null leaves one out, which then has its default.
    """
    request = _merged(msgspec.to_builtins(made.request), changed.get("request", {}))
    kept = _common(made, submitted_at)
    if "start_deadline_s" in changed:
        kept.pop("deadline_s", None)  # else that of before could come first
    common = _merged(kept, {name: value for name, value in changed.items() if name != "request"})
    return intake.checked(made.kind, request, common, "request.", strict=True)._replace(origin=origin)


def _common(made: AnySubmission, submitted_at: Instant | None) -> Raw:
    kept: dict[str, Any] = {  # Any: JSON
        "priority": made.priority,
        "run_timeout_s": made.run_timeout_s,
        "max_attempts": made.max_attempts,
        "backend": made.backend,
        "user": made.user,
        "tags": made.tags,
        "metadata": made.metadata,
    }
    begin = made.not_before or submitted_at
    if begin and made.start_deadline and made.deadline:
        kept["start_deadline_s"] = _length_s(begin, made.start_deadline)
        kept["deadline_s"] = _length_s(begin, made.deadline)
    return kept


def _length_s(begin: Instant, end: Instant) -> float:
    """Give a deadline's length; what it took to store the task is not part of it."""
    return max(_TENTH, round((end - begin).total_seconds(), 1))


def _merged(kept: Raw, changed: Raw) -> Raw:
    return {name: value for name, value in {**kept, **changed}.items() if value is not None}
