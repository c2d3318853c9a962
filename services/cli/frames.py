"""Server-sent events, read from bytes as they arrive.

The one rule: pure; a frame is given when it is whole, and what the standard says to ignore is ignored.
"""

from collections.abc import Iterator

from msgspec import Struct


class Frame(Struct, frozen=True):
    """One event; ``id`` is empty for what cannot be resumed from, such as progress."""

    id: str
    event: str
    data: bytes


class Frames:
    """Collects bytes and gives the frames in them."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        *whole, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in whole:
            frame = _frame(block)
            if frame is not None:
                yield frame


def _frame(block: bytes) -> Frame | None:
    fields: dict[bytes, list[bytes]] = {}
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        fields.setdefault(name, []).append(value.removeprefix(b" "))
    if b"data" not in fields:
        return None
    last = {name: values[-1].decode(errors="replace") for name, values in fields.items() if name != b"data"}
    return Frame(last.get(b"id", ""), last.get(b"event", "message"), b"\n".join(fields[b"data"]))
