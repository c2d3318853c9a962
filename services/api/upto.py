"""Reading one's own writes on any replica: a read that says which sequence it has seen waits for that.

The one rule: a client that says how far it has seen is never shown less; where the read model does not get
there in time, a task is read from the log, and everything else is refused for now.
"""

from typing import Final

from schemas.errors import Code, RejectedError
from services.api import asking, lag
from services.api.answer import READ, Ask
from services.api.queries import ReadModel, ReadModelAwayError

HEADER: Final = b"taskfold-sequence"
FROM_LOG: Final = "from_log"
"""Marks the routes that answer from the log what the read model has not got."""


def wanted(request: Ask) -> int:
    """Give the sequence that the client has seen, 0 where it does not say."""
    for name, value in request.scope["headers"]:
        if name == HEADER:
            return asking.sequence(value)
    return 0


class UpTo:
    """Called with each request before its handler."""

    def __init__(self, model: ReadModel) -> None:
        self._model = model

    async def __call__(self, request: Ask) -> None:
        if request.method not in READ or not (sequence := wanted(request)):
            return
        if request.route_handler.opt.get(FROM_LOG):
            try:
                await lag.reached(self._model, sequence)
            except ReadModelAwayError:
                return
        elif not await lag.reached(self._model, sequence):
            detail = f"the read model is at {lag.applied(self._model)}, before {sequence}"
            raise RejectedError(Code.READ_MODEL_AWAY, detail)
