"""Where a process spends its time, from stacks that py-spy has folded. Pure.

The one rule: a sample belongs to the innermost part that a reader can name. What is in no list (most of the
standard library, Python itself) belongs to whoever called it, so nothing is counted twice.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

LOOP: Final = "event loop"
SOCKETS: Final = "sockets"
NATS: Final = "NATS client"
CLIENT: Final = "HTTP client"
SERVER: Final = "HTTP server"
SQLITE: Final = "SQLite"
JSON: Final = "JSON"
LOGGING: Final = "logging"
PICTURES: Final = "reading pictures"
THREADS: Final = "handing to threads"
GARBAGE: Final = "garbage collection"
OTHER: Final = "other"

_WAITING: Final = frozenset({"_worker", "_connection_worker_thread"})
"""The functions in which a thread of a pool, and that of SQLite, wait for something to do."""

_BLOCKING: Final = frozenset({"epoll_pwait", "epoll_wait", "fdatasync", "fsync"})
"""Calls of the system that wait, for something to do or for the disk."""

_CALLS: Final = frozenset(
    {"accept4", "connect", "epoll_ctl", "read", "recv", "send", "sendmsg", "socket", "write", "writev"}
)
"""Calls of the system that are about sockets in our processes; SQLite's have other names."""

_BY_NAME: Final = {"uv_": LOOP, "pysqlite_": SQLITE, "_pysqlite_": SQLITE, "gc_collect_main": GARBAGE}
_BY_PLACE: Final = {
    **dict.fromkeys(("asyncio", "uvloop", "loop.c", "_asynciomodule.c"), LOOP),
    **dict.fromkeys(("nats",), NATS),
    **dict.fromkeys(("aiohttp", "aiohappyeyeballs", "yarl", "multidict"), CLIENT),
    **dict.fromkeys(("uvicorn", "litestar"), SERVER),
    **dict.fromkeys(("aiosqlite", "sqlite3"), SQLITE),
    **dict.fromkeys(("json", "msgspec"), JSON),
    **dict.fromkeys(("logging", "structlog"), LOGGING),
    **dict.fromkeys(("PIL",), PICTURES),
    **dict.fromkeys(("concurrent", "threading.py"), THREADS),
}
"""By the beginnings of their names, and by the first folder or file of their places."""

_OURS: Final = ("services", "schemas")


class Frame(NamedTuple):
    """A function, and the file or the library that it is in."""

    name: str
    place: str


def parts(folded: Iterable[str]) -> Counter[str]:
    """Count the samples of each part; those of threads that wait for work or for the disk are left out."""
    counted = Counter[str]()
    for line in folded:
        stack, _, samples = line.strip().rpartition(" ")
        part = _part([_frame(text) for text in stack.split(";")])
        if stack and part is not None:
            counted[part] += int(samples)
    return counted


def _frame(text: str) -> Frame:
    """Read ``name (place:line)``; the line may be missing, and a name may have parentheses of its own."""
    name, _, place = text.rpartition(" (")
    return Frame(name, place.removesuffix(")").partition(":")[0])


def _part(stack: Sequence[Frame]) -> str | None:
    """Name the part that a stack, outermost frame first, is in; None where it waits."""
    for frame in reversed(stack):
        if frame.name in _WAITING or frame.name in _BLOCKING:
            return None
        if found := _known(frame):
            return found
    return OTHER


def _known(frame: Frame) -> str | None:
    folder, *below = frame.place.split("/")
    if folder in _OURS:
        return "/".join([folder, *below[:-1]][:2])
    if folder.startswith("libc."):
        return SOCKETS if frame.name in _CALLS else None
    if folder.startswith("libsqlite3"):
        return SQLITE
    by_name = (part for start, part in _BY_NAME.items() if frame.name.startswith(start))
    return _BY_PLACE.get(folder) or next(by_name, None)
