"""The image servers that take no time, as the dispatcher's own adapter sees them."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from benchmarks.client import connected, get
from benchmarks.instant import HOST, SIDE, Instant, answers
from schemas.ids import BackendId, TaskId
from schemas.registry import Backend
from schemas.requests import ImageRequest, Kind
from services.dispatcher.backends import http
from services.dispatcher.backends.base import Finished, Job, Ready
from services.dispatcher.backends.openai_images import OpenaiImagesAdapter

REQUEST = ImageRequest(prompt="a red fox", width=SIDE, height=SIDE, seed=1)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    given = answers()
    server = await asyncio.get_running_loop().create_server(lambda: Instant(given), HOST, 0)
    async with server:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}"


async def test_it_is_ready_and_its_picture_is_accepted(url: str) -> None:
    backend = Backend(name=BackendId("gpu"), url=url, kind=Kind.IMAGE)
    async with http.session() as session:
        adapter = OpenaiImagesAdapter(session, backend)

        assert isinstance(await adapter.probe(1.0), Ready)
        end = await adapter.attempt(Job(task_id=TaskId("t"), attempt=1, request=REQUEST))

    assert isinstance(end, Finished)
    assert [(each.width, each.height, each.media_type) for each in end.outputs] == [
        (SIDE, SIDE, "image/png")
    ]


async def test_a_connection_is_kept_for_a_client_that_keeps_it(url: str) -> None:
    async with connected(url) as connection:
        statuses = [
            (await connection.ask(get(path))).status for path in ("/health", "/nowhere", "/v1/models")
        ]

    assert statuses == [200, 404, 200]


async def test_what_is_no_http_ends_the_connection(url: str) -> None:
    reader, writer = await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))
    writer.write(b"\x16\x03\x01 no http\r\n\r\n")

    assert await reader.read() == b""
    writer.close()
