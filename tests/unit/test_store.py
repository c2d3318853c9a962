"""What the read model's write-ahead log costs: it stays short, and is not moved into the file too often."""

from pathlib import Path

from schemas import events
from schemas.events import TaskSubmitted
from schemas.ids import TaskId
from schemas.subjects import Address
from services.bus.stored import Stored
from services.projector.building import Building
from services.projector.store import CHECKPOINT_FRAMES, opened
from tests.builders import LANE, at, image

FRAME = 4096 + 24
BATCHES = 6 * CHECKPOINT_FRAMES // 12
"""Each changes a dozen pages and more."""


def submitted(sequence: int) -> Stored:
    address = Address(LANE, TaskId(f"task-{sequence}"))
    body = events.encode(TaskSubmitted(submission=image()))
    return Stored(address.subject(TaskSubmitted), body, {}, sequence, at(sequence))


async def test_the_log_is_moved_into_the_file_now_and_then_and_its_beginning_used_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "readmodel.sqlite"
    Building(path, "stream").finish()
    seen = set()
    async with opened(path) as store:
        for sequence in range(1, BATCHES + 1):
            await store.apply([submitted(sequence)])
            seen.add(path.stat().st_mtime_ns)
        longest = path.with_name(path.name + "-wal").stat().st_size
    moved = len(seen) - 1
    assert 3 <= moved <= BATCHES // 20
    assert longest < 2 * CHECKPOINT_FRAMES * FRAME
