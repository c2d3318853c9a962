"""Ports that are ours before anybody listens on them, and the small questions asked over them.

The one rule: a reserved port stays reserved for the life of ``up``, so a child finds it again after
a crash. Linux lets a second socket listen where a first is bound, when both allow reuse and the
first does not listen; everything started here does.
"""

import asyncio
import contextlib
import errno
import socket
import sys

from services.process import StartError


def reserve(stack: contextlib.ExitStack, host: str, port: int, setting: str) -> int:
    """Take a port (0: a free one) until the stack closes, and give its number.

    Raises StartError that names the port and the setting when it cannot be had.
    """
    variable = f"TASKFOLD_{setting.upper()}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} is taken"
        else:
            reason = f"cannot listen on {host} port {port} ({error.strerror})"
        raise StartError(f"{reason}; {variable} sets another port, 0 takes a free one") from None
    number: int = bound.getsockname()[1]
    if sys.platform != "linux":
        bound.close()
    return number


def reachable(host: str) -> str:
    """Give the host under which a server that listens on this one is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


async def first_line(host: str, port: int) -> bytes:
    """Read the line with which a server greets; empty when nobody listens."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return b""
    try:
        return await reader.readline()
    except (OSError, ValueError):
        return b""
    finally:
        writer.close()


async def listens(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def get(host: str, port: int, path: str) -> tuple[int, str]:
    """Ask for a page; status 0 when there is no answer to be had."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0, ""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    return (int(words[1]) if len(words) > 1 else 0), body.decode(errors="replace")
