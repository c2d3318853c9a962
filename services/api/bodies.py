"""The bodies of requests, read as a whole.

The one rule: what stops arriving is nobody's fault here, and is no failure in the log.
"""

from typing import Final

from litestar.exceptions import InternalServerException

from schemas.errors import Code, RejectedError
from services.api import asking
from services.api.answer import Ask, headers_of
from services.api.problems import ClientGoneError

JSON: Final = "application/json"


async def content(request: Ask, *allowed: str) -> bytes:
    """Give the body, of a media type that is ``allowed``, or JSON; RejectedError for another."""
    kind = asking.media_type(headers_of(request).get(b"content-type"))
    if kind not in ("", JSON):
        names = allowed or (JSON,)
        raise RejectedError(
            Code.UNSUPPORTED_MEDIA_TYPE,
            f"the body is {' or '.join(names)}, not {kind}",
            member="Content-Type",
            allowed=names,
        )
    return await whole(request)


async def whole(request: Ask) -> bytes:
    """Give the whole body, which is read once; ClientGoneError when it stops arriving."""
    try:
        return await request.body()
    except InternalServerException:
        raise ClientGoneError("left before its body was complete") from None
