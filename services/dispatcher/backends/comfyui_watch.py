"""How one prompt at a ComfyUI is followed to its end.

The one rule: the history says how it ended, and that it is lost only together with the queue. Messages of
the websocket are why to look there at once, and no more.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from services.dispatcher.backends import comfyui_wire as wire
from services.dispatcher.backends.base import Failed
from services.dispatcher.backends.classify import NOT_FOUND, OK, Broken, Reply
from services.dispatcher.backends.comfyui_events import Ears, Ended, Preview, Step
from services.dispatcher.backends.http import Endpoint
from services.dispatcher.backends.polling import Drought, Unclear, hopeless, next_poll, without_answer

POLL_TIMEOUT_S: Final = 5.0
LOOK_EVERY_S: Final = 5.0
"""Between looks at the queue, which holds whole graphs."""

Seen = Step | Preview | wire.Entry | Failed
"""What is seen of a prompt: any number of the first two, then one of the others."""

_RETRY_GAP_S: Final = 0.25
_NEAR_GAP_S: Final = 0.05
_NO_ROUTE: Final = frozenset({NOT_FOUND, 405})


class Watch:
    """Follows a prompt; ``stop`` has it cancelled, and is only word left for the loop.

    ``certain``: the server has accepted it. Else it is looked for in the queue at once.
    """

    def __init__(
        self, endpoint: Endpoint, ears: Ears, prompt_id: str, expected_s: float | None, *, certain: bool
    ) -> None:
        self._endpoint = endpoint
        self._ears = ears
        self._prompt_id = prompt_id
        self._expected_s = expected_s
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._look_at = self._began + (LOOK_EVERY_S if certain else 0.0)
        self._drought = Drought()
        self._near = self._gone = False
        self._stopping = self._told = self._hurry = False
        self._nap: asyncio.Timeout | None = None

    def stop(self) -> None:
        self._stopping = self._hurry = True
        if self._nap is not None and not self._nap.expired():
            self._nap.reschedule(self._now())

    async def seen(self) -> AsyncIterator[Seen]:
        """Give the steps and previews that are heard of, and then the end; what was never there is lost."""
        while True:
            async for step in self._steps(self._gap_s()):
                yield step
            await self._pass_on()
            end = await self._end()
            if end is not None:
                yield end
                return

    def _gap_s(self) -> float:
        """Say how long to wait before the next question."""
        gap_s = next_poll(self._now() - self._began, self._expected_s)
        if self._drought != Drought():
            return max(gap_s, _RETRY_GAP_S)
        if self._near or self._gone:
            return min(gap_s, _NEAR_GAP_S)
        return min(gap_s, _RETRY_GAP_S) if self._stopping and not self._told else gap_s

    async def _steps(self, seconds: float) -> AsyncIterator[Step | Preview]:
        """Listen for so long; a wish to stop, or word of the end, makes it shorter."""
        until = self._now() + seconds
        await self._ears.open(self._now())
        while not self._hurry and (said := await self._heard(until - self._now())) is not None:
            if said.prompt_id != self._prompt_id:
                continue
            if isinstance(said, Ended):
                # The history is written just after the first word of the end.
                self._near, self._look_at = True, self._now()
                break
            yield said
        self._hurry = False

    async def _heard(self, seconds: float) -> Step | Preview | Ended | None:
        try:
            async with asyncio.timeout(max(0.0, seconds)) as self._nap:
                return await self._ears.hear()
        except TimeoutError:
            return None
        finally:
            self._nap = None

    async def _end(self) -> wire.Entry | Failed | None:
        """Ask for the end once; None where there is none yet."""
        answer = await self._endpoint.get(wire.history_path(self._prompt_id), POLL_TIMEOUT_S)
        found = wire.understood(answer, self._prompt_id)
        if isinstance(found, Unclear):
            self._drought = without_answer(self._drought, found.trouble, self._now())
            return found.failure if hopeless(self._drought, self._now()) else None
        self._drought = Drought()
        if found is not None:
            return found
        if self._gone:
            return wire.lost("it is neither in the queue nor in the history of the server")
        if self._now() >= self._look_at:
            self._look_at = self._now() + LOOK_EVERY_S
            queue = wire.waiting(await self._endpoint.get(wire.QUEUE, POLL_TIMEOUT_S))
            # It may have ended between the two questions, so the history has the last word. And somebody
            # may have emptied the history: while the attempt has another prompt there, none of it is lost.
            self._gone = queue is not None and not queue.holds(self._prompt_id)
        return None

    async def _pass_on(self) -> None:
        """Pass the wish to stop on, once. Whatever is answered, the questions find out how it ends."""
        if self._stopping and not self._told:
            self._told = await self._cancel()
            self._look_at = self._now()

    async def _cancel(self) -> bool:
        """Cancel by id; say whether the server has heard it."""
        answer = await self._endpoint.post(wire.cancel_path(self._prompt_id), {}, POLL_TIMEOUT_S)
        if isinstance(answer, Reply) and answer.status in _NO_ROUTE:
            return await self._cancel_as_before()
        return isinstance(answer, Reply) and answer.status == OK

    async def _cancel_as_before(self) -> bool:
        """Cancel at a server without that route.

        Old ones interrupt whatever runs, whichever id they are told, so only what runs is interrupted.
        """
        answer = await self._endpoint.post(wire.QUEUE, {"delete": [self._prompt_id]}, POLL_TIMEOUT_S)
        queue = wire.waiting(await self._endpoint.get(wire.QUEUE, POLL_TIMEOUT_S))
        if isinstance(answer, Broken) or queue is None:
            return False
        if self._prompt_id in queue.running:
            interruption = {"prompt_id": self._prompt_id}
            answer = await self._endpoint.post(wire.INTERRUPT, interruption, POLL_TIMEOUT_S)
        return isinstance(answer, Reply)
