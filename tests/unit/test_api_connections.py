"""How an answer leaves: its head with what follows it, and nothing held back for long."""

import asyncio
from collections.abc import Iterable

from services.api.connections import Joining


class Sent(asyncio.Transport):
    """Keeps what is written, a list of pieces for each write."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.writes: list[list[bytes]] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append([bytes(data)])

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.writes.append([bytes(data) for data in list_of_data])

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


def joining(sent: Sent) -> Joining:
    return Joining(sent, asyncio.get_running_loop())


async def turn() -> None:
    """Let the loop do what it was asked to do before this."""
    asked = asyncio.Event()
    asyncio.get_running_loop().call_soon(asked.set)
    await asked.wait()


async def test_a_head_leaves_with_the_body() -> None:
    sent = Sent()
    connection = joining(sent)
    connection.write(HEAD)
    assert sent.writes == []

    connection.write(b"{}")
    assert sent.writes == [[HEAD, b"{}"]]
    await turn()
    assert sent.writes == [[HEAD, b"{}"]]


async def test_a_head_that_nothing_follows_leaves_in_the_next_turn() -> None:
    sent = Sent()
    joining(sent).write(HEAD)
    await turn()
    assert sent.writes == [[HEAD]]


async def test_pieces_of_a_stream_leave_as_they_come() -> None:
    sent = Sent()
    connection = joining(sent)
    for piece in (HEAD, b"first", b"second", b"HTTP/1.1 in a text", b"third"):
        connection.write(piece)
    await turn()
    assert sent.writes == [[HEAD, b"first"], [b"second"], [b"HTTP/1.1 in a text", b"third"]]


async def test_two_answers_at_once_leave_one_after_the_other() -> None:
    sent = Sent()
    connection = joining(sent)
    for piece in (HEAD, HEAD, b"{}"):
        connection.write(piece)
    await turn()
    assert b"".join(piece for pieces in sent.writes for piece in pieces) == HEAD + HEAD + b"{}"


async def test_what_is_closed_has_sent_its_head() -> None:
    sent = Sent()
    connection = joining(sent)
    connection.write(HEAD)
    connection.close()
    assert (sent.writes, sent.closed) == ([[HEAD]], True)


async def test_to_who_has_gone_nothing_is_sent_any_more() -> None:
    sent = Sent()
    joining(sent).write(HEAD)
    sent.close()
    await turn()
    assert sent.writes == []


async def test_it_is_a_transport_in_all_else() -> None:
    connection = joining(Sent())
    assert connection.get_extra_info("peername") == ("127.0.0.1", 1)
