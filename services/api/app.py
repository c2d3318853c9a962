"""The application: routes, and what happens to errors.

The one rule: nothing stands between the server and a handler that a request does not need.
"""

from collections.abc import Sequence

from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from schemas.requests import MAX_REQUEST_BYTES
from services.api import problems


def assemble(handlers: Sequence[HTTPRouteHandler]) -> Litestar:
    return Litestar(
        list(handlers),
        exception_handlers={HTTPException: problems.answer, Exception: problems.answer},
        request_max_body_size=MAX_REQUEST_BYTES,
        openapi_config=None,  # its pages load scripts from elsewhere; see openapi.describe
        logging_config=None,
    )
