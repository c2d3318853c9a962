"""How many tasks a queue has in each status in which they are in it, noted at a moment and counted on.

The one rule: pure; whoever counts on from the same note by the same moves comes to the same.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from schemas.task import Status

IN_QUEUE: Final = (Status.SCHEDULED, Status.QUEUED, Status.RETRYING, Status.RUNNING)
"""What a queue counts, in the order of its columns."""

Queue = tuple[str, str]
"""Kind and model."""
Move = tuple[str, str, str | None, str]
"""In a queue of kind and model: from a status, None before the first event, to another."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(list[tuple[str, str, int, int, int, int]]).decode


def note(queues: Mapping[Queue, Iterable[int]]) -> bytes:
    """Write down what there is, numbers as IN_QUEUE; an empty queue is left out."""
    rows = ([*queue, *numbers] for queue, numbers in sorted(queues.items()))
    return _encode([row for row in rows if any(row[2:])])


def counted_on(noted: bytes | None, moves: Iterable[Move]) -> dict[Queue, list[int]]:
    """Count on from what was written down, None for nothing; numbers as IN_QUEUE, perhaps all nought."""
    counts = {(kind, model): numbers for kind, model, *numbers in _decode(noted or b"[]")}
    places: Mapping[str | None, int] = {status: place for place, status in enumerate(IN_QUEUE)}
    for kind, model, before, after in moves:
        numbers = counts.setdefault((kind, model), [0] * len(IN_QUEUE))
        for status, change in ((before, -1), (after, 1)):
            if (place := places.get(status)) is not None:
                numbers[place] += change
    return counts
