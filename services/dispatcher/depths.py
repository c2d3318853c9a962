"""How deep lanes are, read again and again into the board.

The one rule: wake-ups may be lost, and who is told of a ticket may be busy, so nothing relies on them.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Final

from schemas.errors import UnavailableError
from schemas.subjects import Lane
from services.bus.connection import ApiError, Bus
from services.bus.streams import Depth, lane_depths
from services.dispatcher.board import Board
from services.process import at_most

REFRESH_S: Final = 1.5
_HASTE_S: Final = 0.1
_LANES_PER_S: Final = 600
"""So many are read anew at most; each takes 25 us of the server and 5 here."""


class Depths:
    """``doubted``: a pull has found nothing against expectation. A server that is busy answers so too.

    ``in_hand`` counts the tickets that this dispatcher has; ``changed`` is set when something was read.
    """

    def __init__(
        self, bus: Bus, board: Board, in_hand: Callable[[], Mapping[Lane, int]], changed: asyncio.Event
    ) -> None:
        self._bus = bus
        self._board = board
        self._in_hand = in_hand
        self._changed = changed
        self.doubted = asyncio.Event()

    async def keep(self) -> None:
        """Read them until cancelled, sooner when there is a doubt."""
        depths: Mapping[Lane, Depth] = {}
        while True:
            with contextlib.suppress(UnavailableError, ApiError):
                self._board.ask()
                depths = await lane_depths(self._bus)
                self._board.refresh(depths, self._in_hand(), asyncio.get_running_loop().time())
            self._changed.set()
            pause_s = max(_HASTE_S, len(depths) / _LANES_PER_S)
            await asyncio.sleep(pause_s)
            async with at_most(REFRESH_S - pause_s):
                await self.doubted.wait()
            self.doubted.clear()
