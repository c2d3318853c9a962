"""Ports that `up` reserves: a child can listen there, nobody else gets them, refusals name the setting."""

import asyncio
import contextlib
import socket

import pytest

from services.process import StartError
from services.up import ports


@pytest.fixture
def stack() -> contextlib.ExitStack:
    return contextlib.ExitStack()


def test_a_taken_port_is_refused_with_its_number_and_its_setting(stack: contextlib.ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, stack:
        port = other.getsockname()[1]
        with pytest.raises(StartError) as error:
            ports.reserve(stack, "127.0.0.1", port, "api_port")
    assert f"port {port} is taken" in str(error.value)
    assert "TASKFOLD_API_PORT" in str(error.value)
    assert "0 takes a free one" in str(error.value)


@pytest.mark.parametrize("host", ["host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours_is_refused(stack: contextlib.ExitStack, host: str) -> None:
    with stack, pytest.raises(StartError, match=host):
        ports.reserve(stack, host, 0, "api_port")


def test_free_ports_differ(stack: contextlib.ExitStack) -> None:
    with stack:
        taken = {ports.reserve(stack, "127.0.0.1", 0, "api_port") for _ in range(50)}
    assert len(taken) == 50


async def test_a_child_can_listen_on_a_reserved_port_again_and_again(stack: contextlib.ExitStack) -> None:
    with stack:
        port = ports.reserve(stack, "127.0.0.1", 0, "api_port")
        for _ in range(3):
            server = await asyncio.start_server(greet, "127.0.0.1", port)
            assert await ports.first_line("127.0.0.1", port) == b"INFO\n"
            server.close()
            await server.wait_closed()
            assert await ports.first_line("127.0.0.1", port) == b""


async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"INFO\n")
    writer.close()


async def test_a_page_is_read_with_its_status() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nwait")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await ports.get("127.0.0.1", port, "/readyz") == (503, "wait")


async def test_a_server_that_is_away_has_status_0(stack: contextlib.ExitStack) -> None:
    with stack:
        port = ports.reserve(stack, "127.0.0.1", 0, "api_port")
        assert await ports.get("127.0.0.1", port, "/readyz") == (0, "")
        assert not await ports.listens("127.0.0.1", port)


def test_a_server_for_all_addresses_is_reached_on_the_loopback() -> None:
    assert [ports.reachable(host) for host in ("0.0.0.0", "::", "10.0.0.7")] == [
        "127.0.0.1",
        "::1",
        "10.0.0.7",
    ]
