"""Tasks that wait: submitted by the thousand, and held back until they are wanted.

The one rule: they come through the api like anybody's, many to a request.
"""

from typing import Final

import msgspec

from benchmarks.client import post
from benchmarks.rig import Rig, until
from schemas.ids import TaskId

AT_ONCE: Final = 1000
_API: Final = "/api/v1"


async def submit(
    rig: Rig, count: int, prompt: str, *, side: int, steps: int, tenant: str = "", model: str | None = None
) -> list[TaskId]:
    """Submit so many equal pictures of one tenant, by one model or by any."""
    request = picture(prompt, side=side, steps=steps, model=model)
    task = {"kind": "image", "request": request}
    task_ids: list[TaskId] = []
    async with rig.connection() as connection:
        while len(task_ids) < count:
            tasks = [task] * min(AT_ONCE, count - len(task_ids))
            body = msgspec.json.encode({"tasks": tasks})
            answer = await connection.ask(post(f"{_API}/tasks/batch", body, tenant))
            assert answer.status == 202, answer
            task_ids += msgspec.json.decode(answer.body)["task_ids"]
    return task_ids


def picture(prompt: str, *, side: int, steps: int, model: str | None) -> dict[str, str | int]:
    """Give what is asked for, by any model if it is None."""
    named = {"model": model} if model else {}
    return {"prompt": prompt, **named, "width": side, "height": side, "steps": steps, "seed": 1}


async def pause(rig: Rig) -> None:
    """Let no picture begin."""
    await _post(rig, "pause")


async def resume(rig: Rig) -> None:
    """Let them begin again."""
    await _post(rig, "resume")


async def _post(rig: Rig, what: str) -> None:
    async with rig.http.post(f"{rig.url}{_API}/queues/image/{what}") as answer:
        assert answer.status == 200, await answer.text()


async def counts(rig: Rig) -> dict[str, int]:
    """Give how many pictures are in each status, by the read model; empty before the first one."""
    async with rig.http.get(f"{rig.url}{_API}/tasks/counts") as answer:
        counted = msgspec.json.decode(await answer.read())["counts"]
    return next((each for each in counted if each["kind"] == "image"), {})


async def queued(rig: Rig, count: int) -> None:
    """Wait until so many at the least are queued in the read model."""

    async def there() -> bool:
        return (await counts(rig)).get("queued", 0) >= count

    await until(there)
