"""Waiting for a task or a batch to change, until it is as somebody wants it.

The one rule: the change is expected before the look, so that none falls between the two.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from services.process import at_most

T = TypeVar("T")

_LOOK_AGAIN_S: Final = 1.0


class Waits:
    """By the id of a task or of a batch, who waits for it; ``closing`` ends every wait.

    ``begun`` is called whenever somebody begins to wait.
    """

    def __init__(self, begun: Callable[[], None]) -> None:
        self._begun = begun
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self.closing = False

    async def until(
        self, name: str, look: Callable[[], Awaitable[T]], enough: Callable[[T], bool], wait_s: float
    ) -> T:
        """Give what is seen once ``enough`` says so, or when the time is over."""
        loop = asyncio.get_running_loop()
        end_at = loop.time() + wait_s
        while True:
            with self._change(name) as change:
                seen = await look()
                left_s = end_at - loop.time()
                if enough(seen) or left_s <= 0 or self.closing:
                    return seen
                async with at_most(min(left_s, _LOOK_AGAIN_S)):
                    await change

    @contextlib.contextmanager
    def _change(self, name: str) -> Iterator[asyncio.Future[None]]:
        """Give a future that is done at the next change."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(name, set()).add(future)
        self._begun()
        try:
            yield future
        finally:
            if waiters := self._waiters.get(name):
                waiters.discard(future)
                if not waiters:
                    del self._waiters[name]

    @property
    def any(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiters)

    def changed(self, name: str) -> None:
        for future in self._waiters.pop(name, ()):
            if not future.done():
                future.set_result(None)

    def close(self) -> None:
        """End every wait: the process is about to end."""
        self.closing = True
        for name in tuple(self._waiters):
            self.changed(name)
