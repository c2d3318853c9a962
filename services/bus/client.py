"""The connection's client: nats-py's, less the queue and the task through which it hands a message over.

The one rule: what arrives is taken in the order in which it came, in the moment in which it is read.
"""

from collections.abc import Callable

import nats.aio.client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

Take = Callable[[Msg], None]
"""Is called while the connection is read, so it has to return at once."""


class Client(nats.aio.client.Client):
    def __init__(self) -> None:
        super().__init__()
        self._takers: dict[int, Take] = {}

    async def hand(self, subject: str, take: Take) -> Subscription:
        """Subscribe; what it raises is told as errors of a callback are, and goes no further."""

        async def early(message: Msg) -> None:
            take(message)

        subscription = await self.subscribe(subject, cb=early)
        self._takers[subscription._id] = take  # noqa: SLF001 - there is no public word for it
        return subscription

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        take = self._takers.get(sid)
        if take is None:
            return await super()._process_msg(sid, subject, reply, data, headers)
        found = await self._process_headers(headers) if headers else None
        try:
            take(self._build_message(sid, subject, reply, data, found))
        except Exception as error:  # noqa: BLE001 - else nothing more would be read
            await self._error_cb(error)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._takers.pop(sid, None)
        super()._remove_sub(sid, max_msgs)
