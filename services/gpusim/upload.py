"""What is posted to a speech server: a form with a recording in it.

A request that goes no further is a RefusedError, which carries the answer.
"""

from aiohttp import web
from multidict import MultiDictProxy

Fields = MultiDictProxy[str | bytes | bytearray | web.FileField]


class RefusedError(Exception):
    """The request does not get as far as the GPU; `response` says why."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(response.text)
        self.response = response


async def uploaded(http: web.Request, member: str) -> tuple[bytes | None, Fields]:
    """Read the form: the file in that member, None without one, and all fields.

    Raises ValueError when the body is not the form that it says it is.
    """
    fields = await http.post()
    file = fields.get(member)
    if not isinstance(file, web.FileField):
        return None, fields
    with file.file as spooled:  # closed here, because a crash has aiohttp leave it open
        return spooled.read(), fields


def texts(fields: Fields) -> dict[str, str]:
    """Leave out the files."""
    return {name: value for name, value in fields.items() if isinstance(value, str)}
