"""A reader of an SSE stream that resumes by Last-Event-ID, as a browser does."""

import asyncio
import json
from typing import Any

import aiohttp


class Reader:
    """Collects events with an id; ``reconnects`` counts how often the connection was made again."""

    def __init__(self, http: aiohttp.ClientSession, url: str, last_event_id: int | None = None) -> None:
        self._http = http
        self._url = url
        self._last = last_event_id
        self.events: list[dict[str, Any]] = []  # Any: JSON
        self.reconnects = -1

    async def run(self) -> None:
        """Read for ever; ends when the server says that there is nothing more to come."""
        while True:
            self.reconnects += 1
            headers = {"Accept": "text/event-stream"}
            if self._last is not None:
                headers["Last-Event-ID"] = str(self._last)
            try:
                timeout = aiohttp.ClientTimeout(total=None)
                async with self._http.get(self._url, headers=headers, timeout=timeout) as answer:
                    if answer.status == 204:
                        return
                    await self._read(answer.content)
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)

    async def _read(self, content: aiohttp.StreamReader) -> None:
        identity = None
        async for line in content:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "id":
                identity = int(value)
            elif field == "data" and identity is not None:
                self.events.append(json.loads(value))
                self._last, identity = identity, None
