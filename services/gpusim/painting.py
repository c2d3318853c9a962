"""Image jobs: the steps of the GPU, then the pictures.

Pictures are drawn in a thread, so that the server answers while it draws.
"""

import asyncio
import hashlib
from collections.abc import Sequence

from msgspec.structs import replace

from services.gpusim.gpu import Gpu
from services.gpusim.model import Job, step_times_s
from services.gpusim.picture import Picture, render

MAX_SIDE = 4096
MAX_STEPS = 1000

GARBAGE = hashlib.sha256(b"not an image").digest() * 16
"""What a spoiled job gives in place of each image."""


async def paint(gpu: Gpu, job: Job, pictures: Sequence[Picture], image_format: str) -> list[bytes]:
    """Run an admitted job to its end and give its images, encoded.

    Raises JobFailedError. When cancelled, it leaves the GPU at once; when interrupted, what it gives is
    drawn with the steps that there were.
    """
    first = pictures[0]
    area, steps = first.width * first.height, first.steps * len(pictures)
    durations_s = step_times_s(gpu.options, job.id, area, steps)
    middle = len(durations_s) // 2
    async with gpu.turn(job) as turn:
        await turn.work(durations_s[:middle])
        await turn.stumble()
        await turn.work(durations_s[middle:])
        if turn.spoiled:
            return [GARBAGE for _ in pictures]
        if turn.interrupted:
            pictures = [replace(each, steps=max(1, min(turn.step, each.steps))) for each in pictures]
        images = [await asyncio.to_thread(render, each, image_format) for each in pictures]
        await turn.drag()
    return images


def batch(picture: Picture, count: int) -> list[Picture]:
    """Give as many pictures of one prompt; their seeds count up, as in real servers."""
    return [replace(picture, seed=picture.seed + offset) for offset in range(count)]


def within_limits(picture: Picture) -> bool:
    """Whether it can be drawn with the memory and the time of a simulator."""
    sides = (picture.width, picture.height)
    return all(1 <= side <= MAX_SIDE for side in sides) and 1 <= picture.steps <= MAX_STEPS
