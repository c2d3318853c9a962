"""What a dispatcher publishes of how far an attempt is, and of how its picture looks."""

from collections.abc import AsyncIterator

import pytest

from schemas import events, previews
from schemas.events import Progress
from schemas.ids import TaskId
from schemas.subjects import PROGRESS
from services import clock
from services.bus.connection import Bus
from services.bus.follow import Follower
from services.bus.stored import Stored
from services.dispatcher import progress
from services.dispatcher.backends.base import Progressed
from services.dispatcher.progress import Reporter
from services.init.main import prepare
from services.settings import Settings

FIRST, SECOND = (b"\xff\xd8\xff of step %d" % step for step in (1, 2))
TASK = TaskId("0199d4e8-7c1a-7000-8000-0123456789ab")


async def stored(bus: Bus) -> AsyncIterator[Stored]:
    """Give what comes into the stream, one after the other."""
    async for batch in Follower(bus, PROGRESS, ">", clock.new_name()).batches():
        for message in batch:
            yield message


@pytest.fixture
async def reporter(bus: Bus) -> Reporter:
    await prepare(bus, Settings(artifact_gib=1))
    return Reporter(bus, TASK, 3, expected_s=10.0)


@pytest.mark.parametrize("pause_s", [0.0, 3600.0])
async def test_a_preview_is_stored_before_the_progress_that_names_it_and_the_next_waits(
    bus: Bus, reporter: Reporter, monkeypatch: pytest.MonkeyPatch, pause_s: float
) -> None:
    monkeypatch.setattr(progress, "PREVIEW_INTERVAL_S", pause_s)
    await reporter.measured(Progressed(fraction=0.1, step=1, steps=10))
    await reporter.previewed(FIRST)
    await reporter.previewed(FIRST)
    await reporter.previewed(b"<svg/>")
    await reporter.previewed(SECOND)
    monkeypatch.setattr(progress, "INTERVAL_S", 0.0)
    await reporter.measured(Progressed(fraction=0.2, step=2, steps=10))

    expected = [FIRST] if pause_s else [FIRST, SECOND]
    latest = Progress(attempt=3, fraction=0.2, step=2, steps=10, preview=previews.name(expected[-1]))
    seen: list[Stored] = []
    async for message in stored(bus):
        seen.append(message)
        if message.subject.startswith("progress.") and events.decode_progress(message.body) == latest:
            break
    # Of each subject only the last message is kept.
    assert [(each.subject, each.headers.get(previews.ATTEMPT)) for each in seen] == [
        (f"preview.{TASK}", "3"),
        (f"progress.{TASK}", None),
    ]
    assert seen[0].body == expected[-1]
    assert seen[-1].sequence == 2 * len(expected) + 2, "the others were not stored at all"
