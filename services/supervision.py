"""What a process tells its supervisor, in the protocol of sd_notify(3): ready, alive, stopping.

The one rule: it is said from the event loop, so that a loop that is stuck says nothing and is restarted.
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Final

import structlog

log = structlog.get_logger()

# A manager that does not read may hold up the loop for so long; blocking for ever would be its end.
_PATIENCE_S: Final = 1.0
_BEATS: Final = 3


def ready(status: str) -> None:
    """Say that the process does its work from now on; ``status`` is one line for people."""
    notify("READY=1", f"STATUS={status}")


def stopping() -> None:
    notify("STOPPING=1", "STATUS=finishes what is under way")


def notify(*assignments: str) -> None:
    """Send one datagram to the supervisor, if there is one; a process goes on without it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # Abstract names, which are in no folder, are written with @ and begin with a zero byte.
    target = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_PATIENCE_S)
            sender.sendto("\n".join(assignments).encode(), target)
    except OSError as error:
        log.warning("supervisor.unreachable", address=address, error=str(error))


async def keep_alive() -> None:
    """Say again and again that the loop turns, if the supervisor wants to know; runs until cancelled."""
    if (limit_s := watchdog_s(os.environ, os.getpid())) is None:
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(limit_s / _BEATS)


def watchdog_s(env: Mapping[str, str], pid: int) -> float | None:
    """Give the longest silence that this process is allowed; None when nobody listens for it."""
    try:
        limit_s = int(env.get("WATCHDOG_USEC", "0")) / 1_000_000
        watched = int(env.get("WATCHDOG_PID", pid))
    except ValueError:
        return None
    # A child inherits the environment, but only its parent is watched.
    return limit_s if limit_s > 0 and watched == pid else None
